"""A matplotlib backend for cells that run as jobs: `plt.show()` sends the figures to the notebook.

Lives here: the backend interface of matplotlib, under the name `module://cook_jupyter.notebook.figures`, and
the figures that were shown. Only matplotlib imports this module, which needs matplotlib.
Not here: sending the figures (`notebook.cell_job`).
"""

import io
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

FigureCanvas = FigureCanvasAgg

shown: list[bytes] = []  # PNG, in the order in which they were shown


def show(*_: Any, **__: Any) -> None:
    """Draw every open figure and close it, as a notebook does at the end of a cell."""
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if figure.axes or figure.lines or figure.images:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", bbox_inches="tight", facecolor=figure.get_facecolor())
            shown.append(drawn.getvalue())
        plt.close(figure)
