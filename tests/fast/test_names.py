"""Names on a server: nobody's is another's, and each is short enough for what reads it."""

import re

import pytest
from django.conf import settings

from instances import processes
from instances.models import Instance
from instances.runtimes.base import Colour
from projects.models import Environment
from tests import factories

pytestmark = pytest.mark.django_db
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""As DNS takes it."""
LONG = "a-very-long-name-of-a-clients-engagement"


def environment(project_slug: str, slug: str) -> Environment:
    project = factories.Project.objects.filter(slug=project_slug).first()
    project = project or factories.project(name=project_slug, slug=project_slug)
    return factories.environment(project=project, name=slug, slug=slug)


def test_instances_of_neighbours_never_share_an_alias() -> None:
    one = environment("acme", "production")
    other = environment("acme", "production-x")

    assert Instance(environment=one, slug="x-main").alias == "acme-production--x-main"
    assert Instance(environment=other, slug="main").alias == "acme-production-x--main"


def test_long_aliases_are_shortened_to_what_dns_takes_and_stay_apart() -> None:
    made = environment(LONG, LONG)
    slugs = ["main", "main-2", "a" * 30, "a" * 29 + "b"]

    aliases = [Instance(environment=made, slug=slug).alias for slug in slugs]

    assert len(set(aliases)) == len(slugs)
    assert all(LABEL.fullmatch(alias) for alias in aliases), aliases


def test_an_alias_of_exactly_the_longest_is_left_as_it_is() -> None:
    made = environment("acme", "production")
    slug = "b" * (63 - len("acme-production--"))

    assert Instance(environment=made, slug=slug).alias == f"acme-production--{slug}"
    assert len(Instance(environment=made, slug=slug + "b").alias) <= 63


def test_a_container_of_the_other_colour_has_a_name_that_no_instance_has() -> None:
    made = environment("acme", "production")
    instances = [Instance(environment=made, slug=slug) for slug in ("main", "main-g", "g")]
    long = environment(LONG, LONG)
    instances += [Instance(environment=long, slug=slug) for slug in ("main", "a" * 30, "a" * 29 + "b")]

    names = {one.name_at_edge(colour) for one in instances for colour in Colour}

    assert len(names) == len(instances) * len(Colour)
    assert all(LABEL.fullmatch(name) for name in names), names


def test_an_instance_called_like_a_one_shot_containers_purpose_has_another_container() -> None:
    made = environment("acme", "production")
    instance = Instance(environment=made, slug="update")

    assert instance.container_for(7) != processes.one_shot_name(made, "update", 7)


def test_host_names_and_databases_of_clashing_environments_are_numbered_within_their_limits() -> None:
    made = [environment(f"{LONG[:-3]}-{letter}", f"{LONG[:-3]}-b") for letter in "abcdefghijkl"]

    assert len({one.subdomain for one in made}) == len({one.database for one in made}) == len(made)
    assert all(LABEL.fullmatch(one.subdomain) for one in made), [one.subdomain for one in made]
    assert all(len(f"{one.database}__s1234567890") <= 63 for one in made)
    assert all(re.fullmatch(r"[a-z0-9]+(?:_[a-z0-9]+)*", one.database) for one in made)


def test_a_name_that_is_cut_at_a_dash_does_not_end_in_it() -> None:
    made = environment("acme-" + "x" * 20, "a" * 40)
    assert made.subdomain == "a" * 40 + "-acme-" + "x" * 17
    cut = environment("b" * 21 + "-acme", "c" * 40)
    assert cut.subdomain == "c" * 40 + "-" + "b" * 21


def test_keys_that_would_clash_are_numbered() -> None:
    assert environment("a-b", "c").key == "a-b-c"
    assert environment("a", "b-c").key == "a-b-c-2"
    assert environment("a", "b-c-2").key == "a-b-c-2-2"


def test_a_volume_is_named_by_installation_and_environment() -> None:
    assert environment("acme", "production").volume == f"{settings.OCORE_NAMESPACE}-acme-production"
