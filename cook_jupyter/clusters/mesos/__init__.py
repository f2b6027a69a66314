"""A cluster of Apache Mesos: the scheduler as a framework of a master.

    connection   the protocol: events in, calls out
       ├── http_connection     ours; its parts are http_stream (with recordio) and http_calls
       └── pymesos_connection  the same over pymesos; both keep a `subscription` (with pacing), whose master a
       │                       `leader` detector finds (or `zookeeper`), and understand `answers`
       │
    cluster      `MesosCluster`: the ComputeCluster; passes events to the parts below, and sends their calls
       ├── hosts            agents by host: held offers, capacity, room that is about to come back
       ├── launching        tasks of a host: resources cut from its offers, ACCEPT, waiting launches
       ├── executors        which executor runs a task, and its ExecutorInfo
       ├── statuses         a status of Mesos as a status update
       ├── reconciliation   which tasks to ask the master about, and when
       └── partitions       instances on unreachable agents
    sandboxes    files of instances
       └── agent_files      files of an agent, through its operator API

    messages     the JSON of Mesos' v1 scheduler API, as types
    resources    resource objects of Mesos: amounts in thousandths, cut to size

What runs on the hosts is in `worker.mesos`. The facts about Mesos are from its documents and a real 1.11.0.
"""
