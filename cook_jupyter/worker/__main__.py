"""`python -m cook_jupyter.worker`: the processes of a host.

    agent --home DIR [--detach LOG] [--grace S] [--idle-exit S] [--idle-worker S] [--sandbox-days D]
          [--housekeeping S]
    mesos-executor [--grace S] [--idle-exit S] [--idle-worker S] [--sandbox-days D]
                               started by a Mesos agent, with its settings in the environment
    spawner FD HOME GRACE survive|end
                               started by an agent; whether tasks survive it
    worker ...                 a worker that continues in a fresh interpreter
    call                       one call from its environment variables; works on any Cook server

Lives here: parsing these arguments. (argparse would take a tenth of the agent's start.)
"""

import os
import sys

from cook_jupyter.worker.start import add_vendored

_USAGE = "usage: python -m cook_jupyter.worker agent --home DIR [--detach LOG] | call\n"


def main(arguments: list[str]) -> int:
    """Run one of the processes of a host; return its exit code."""
    add_vendored()
    match arguments:
        case ["call"]:
            from cook_jupyter.worker.standalone import run_standalone

            return run_standalone()
        case ["spawner", descriptor, home, grace_s, ("survive" | "end") as fate]:
            from cook_jupyter.worker import spawner

            return spawner.main(int(descriptor), home, float(grace_s), tasks_survive=fate == "survive")
        case ["mesos-executor", *rest]:
            from cook_jupyter.worker.mesos.executor import run_executor

            return run_executor(rest)
        case ["worker", *rest] if len(rest) == 6:
            return _worker(rest)
        case ["agent", *rest] if len(rest) % 2 == 0:
            return _agent(dict(zip(rest[::2], rest[1::2], strict=True)))
        case _:
            sys.stderr.write(_USAGE)
            return 2


def _worker(arguments: list[str]) -> int:
    """Run a worker, and end it without exit handlers, because those of users' imports may never return."""
    from cook_jupyter.worker.runner import resume_worker

    code = 1
    try:
        resume_worker(arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - the top of a process
        import traceback

        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _agent(options: dict[str, str]) -> int:
    from cook_jupyter.worker.agent import AgentSettings
    from cook_jupyter.worker.daemon import run_agent, start_agent

    try:
        home = os.path.abspath(options.pop("--home"))
        log = options.pop("--detach", None)
        names = {
            name.removeprefix("--").replace("-", "_") + ("" if "days" in name else "_s"): name
            for name in options
        }
        settings = AgentSettings(home, **{field: float(options[name]) for field, name in names.items()})
    except (KeyError, TypeError, ValueError) as error:
        sys.stderr.write(f"{_USAGE}{error}\n")
        return 2
    return run_agent(settings) if log is None else start_agent(settings, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
