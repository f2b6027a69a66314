"""Requests of users and operators: checks of submissions, events, reports, explanations and dumps."""
