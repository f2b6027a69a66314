"""What users and operators ask of a scheduler: checks of submissions, events, reports and explanations."""
