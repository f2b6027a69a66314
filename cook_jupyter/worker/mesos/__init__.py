"""Our Mesos executor: a supervisor behind Mesos' v1 executor API.

    executor          `MesosExecutor`: the front end of the supervisor, and the rules for its own end
       ├── updates            status updates until the agent has acknowledged them
       └── agent_connection   the connection to the agent: events in, calls out
              └── http        responses of HTTP, and RecordIO, without I/O

    messages          what scheduler and executor send each other, and how an executor is started
    settings          what Mesos tells an executor through its environment

Needs the standard library only, as a host may have nothing else. The facts about Mesos are from its documents
and a real 1.11.0.
"""
