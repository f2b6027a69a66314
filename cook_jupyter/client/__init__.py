"""The client: talks to a scheduler over HTTP.

Lives here: finding a scheduler (or starting the embedded one, as a process), requests, replies, the event
stream.
Not here: calls and futures (`executor`); code of the scheduler, with which the client shares only the HTTP
interface.
"""
