from cook_jupyter.scheduling.limits.pool_patterns import first_matching

RULES = [("^gpu", "gpus"), ("lab", "labs"), ("", "all the rest")]


def test_the_first_rule_that_is_found_in_the_name_counts() -> None:
    assert [first_matching(pool, RULES) for pool in ("gpu-lab", "my-lab-2", "x")] == [
        "gpus",
        "labs",
        "all the rest",
    ]
    assert first_matching("x", RULES[:2]) is None
