"""In the kernel: the `%cook` and `%%cook` magics, and how jobs look in a notebook.

Lives here: arguments, completion, text and HTML.
Not here: what a future does (`executor`), what a scheduler is asked (`client`).
"""
