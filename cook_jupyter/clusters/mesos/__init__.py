"""A cluster of Apache Mesos: the scheduler as a framework of a master.

    transport    the connection to the leading master: events in, calls out
       │
    cluster      `MesosCluster`: the ComputeCluster; passes events on, and sends calls (calls)
       ├── framework        what it tells Mesos about itself, and its id
       ├── hosts            agents by host: held offers, capacity, room that is about to come back
       ├── holding          which offers are kept, given back and requested again
       ├── instances        the open instances, and when a kill is repeated
       ├── dispatching      sends launches, and takes back what was not sent
       ├── launching        ACCEPTs: tasks with resources cut from offers; launches that wait; containers
       ├── executors        which executor runs a task, and its ExecutorInfo
       ├── executor_watch   leases, progress, executors that do not start
       ├── statuses         a status of Mesos as a status update; provisional: ends whose data may follow
       ├── reconciliation   which tasks to ask the master about, and when
       ├── partitions       instances on unreachable agents
       └── agent_queries    agents, tasks and other frameworks, from the operator API
    sandboxes    files of instances, read from their agents (agent_files); result_files: results among them

    messages     the JSON of Mesos' v1 scheduler API, as types
    resources    resource objects of Mesos: amounts in thousandths, cut to size
    options      what an operator may set

What runs on the hosts is in `worker.mesos`. The facts about Mesos are from its documents and a real 1.11.0.
"""
