from cook_jupyter.scheduling.limits.pool_patterns import first_matching

RULES = [("^gpu", "gpus"), ("lab", "labs"), ("", "all the rest")]


def test_the_first_pattern_that_matches_the_name_applies() -> None:
    assert [first_matching(pool, RULES) for pool in ("gpu-lab", "my-lab-2", "x")] == [
        "gpus",
        "labs",
        "all the rest",
    ]
    assert first_matching("x", RULES[:2]) is None
