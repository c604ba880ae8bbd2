"""How often an export calls a tracking server, and how long that takes."""

import time

import pytest
import requests

MOST_CALLS, MOST_S = 12, 3.0


@pytest.mark.server
def test_an_export_from_stored_logits_makes_few_calls_beyond_its_files(place, toy_faces, toy_teachers, monkeypatch):
    if not place.uri.startswith("http"):
        pytest.skip("a local store has no calls")
    command = ["export", "--manifest", toy_faces, "--teachers", toy_teachers, "--split", "test", "--weights"]
    place.run(*command, "A=0.5,B=0.5")
    calls: list[tuple[str, float]] = []
    send = requests.Session.request

    def counted(session, method, url, **more):
        began = time.perf_counter()
        response = send(session, method, url, **more)
        calls.append((f"{method} {url.removeprefix(place.uri)}", time.perf_counter() - began))
        return response

    monkeypatch.setattr(requests.Session, "request", counted)
    result = place.run(*command, "A=0.7,B=0.3")
    assert result.stdout.count("reused from run") == 2
    # Before its first file a process asks the server how it moves files.
    files = [call for call, _ in calls if "/mlflow-artifacts/" in call or call.endswith("/server-info")]
    beyond = [call for call, _ in calls if call not in files]
    assert len([call for call in files if call.startswith("PUT")]) == 9  # seven of the bundle, and two figures
    print("\n".join(beyond))
    assert len(beyond) <= MOST_CALLS, beyond
    assert sum(took for _, took in calls) <= MOST_S
