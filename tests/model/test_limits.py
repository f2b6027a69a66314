from dataclasses import fields, replace

import pytest

from cook_jupyter.model.limits import Quota, Usage, UserLimits

USAGE = Usage(count=1, cpus=2.0, mem_mb=3.0, gpus=4.0)
AMOUNTS = [amount.name for amount in fields(Usage)]


def test_usages_add_up_amount_by_amount() -> None:
    assert USAGE + Usage(count=10, cpus=20.0, mem_mb=30.0, gpus=40.0) == Usage(
        count=11, cpus=22.0, mem_mb=33.0, gpus=44.0
    )


def test_a_quota_that_was_not_set_limits_nothing_and_stays_as_it_is() -> None:
    quota = Quota()
    assert not quota.limits_usage
    assert quota.less(USAGE) is quota


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_quota_allows_all_of_an_amount_and_no_more(amount: str) -> None:
    quota = replace(Quota(), **{amount: 5})
    assert quota.limits_usage
    assert quota.allows(replace(USAGE, **{amount: 5}))
    assert not quota.allows(replace(USAGE, **{amount: 6}))


def test_what_is_used_is_taken_from_each_amount_of_a_quota() -> None:
    quota = Quota(count=10, cpus=20.0, mem_mb=30.0, gpus=40.0, launch_rate_saved=50.0)
    assert quota.less(USAGE) == Quota(count=9, cpus=18.0, mem_mb=27.0, gpus=36.0, launch_rate_saved=50.0)


def test_users_without_limits_of_their_own_have_the_defaults() -> None:
    own, default = Quota(count=1), Quota(count=2)
    limits = UserLimits(quotas={"ada": own}, default_quota=default)
    assert (limits.quota("ada"), limits.quota("bob")) == (own, default)
