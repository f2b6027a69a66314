"""The connection of a framework to the leading master.

    connection          the protocol: events in, calls out
       │
       ├── http_connection     ours, over HTTP
       │      ├── http_stream     the subscription: RecordIO (recordio) in an HTTP answer
       │      └── http_calls      calls in lanes, in order and many under way
       └── pymesos_connection  over pymesos (pymesos_driver, pymesos_parser)

    subscription        what both share: detect the leader, subscribe, follow, pause (pacing)
    answers             what an answer to a call means
    leader, zookeeper   which master leads

What events mean is up to `clusters.mesos.cluster`.
"""
