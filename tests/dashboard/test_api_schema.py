"""The API against its own document: whatever is sent, what comes back is described there and is no accident."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks

from pq_adapters.dashboard import create_app
from pq_core import PQ
from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.serving import client, served

checks.load_all_checks()
CHECKS = checks.CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    ]
)
EXAMPLES = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_PLAIN = [GenerationMode.POSITIVE]


@pytest.mark.parametrize(("role", "examples"), [("viewer", 1), ("operator", 2), ("admin", 6)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_api_is_as_described(database: str, role: str, examples: int) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        key = pq.create_key("me", role=role).key
        pq.enqueue_many(tasks.greet.call(str(n)) for n in range(3))
        pq.schedule(tasks.greet.call("x"), run_every=tasks.HOUR)
        pq.pause_queue("default")
    headers = {"Authorization": f"Bearer {key}"}
    app = create_app(PQ(database, tasks=[tasks.__name__]))
    with served(app) as address:
        with client(address, key) as one:
            document = one.get("/api/v1/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=address)
        seen = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path.endswith("/keys/{id}"):
                continue  # it would revoke its own key
            seen += 1

            for mode in GenerationMode if operation.query or operation.body or operation.path_parameters else _PLAIN:

                @settings(EXAMPLES, max_examples=examples)
                @given(case=operation.as_strategy(mode))
                def ask(case: schemathesis.Case) -> None:
                    answer = case.call(headers=headers, timeout=30)
                    case.validate_response(answer, checks=CHECKS, headers=headers)

                ask()
    assert seen > 30
