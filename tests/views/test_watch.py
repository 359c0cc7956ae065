"""`proximo watch`: a real server, real requests, a real browser, and a run that is really killed."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
import warm
from PIL import Image
from records import row

import proximo
from proximo.errors import UserError
from proximo.language.ppo.tokens.record import read_record
from proximo.runs.health import TruthMeter
from proximo.views.record import files
from proximo.views.report import credit
from proximo.views.report.data import page_data
from proximo.views.seen import read_runs
from proximo.views.watch import follow
from proximo.views.watch.details import AWAY
from proximo.views.watch.follow import Follower, Tail
from proximo.views.watch.server import Server, open_server

SECRET = "nobody outside may read this"


@contextmanager
def served(folder):
    """The port of a server in this process."""
    with open_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def asked(port, path, host=None):
    """Status and body of a request whose path is sent as it stands."""
    status, body = answered(port, path, Host=host or f"127.0.0.1:{port}")
    return status, body.decode()


def answered(port, path, **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def film(file, seconds=4):
    """A real one: the picture becomes lighter."""
    files.write((Image.new("RGB", (64, 48), (6 * i,) * 3) for i in range(10 * seconds)), file, 10.0)


def write(folder, rows):
    """A run with these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text('kind = "control"\nenvironment = "CartPole-v1"\nseed = 0\nsteps = 9000\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    return folder


def shown(follower, name):
    """State and steps of a run, as the page has them."""
    page = follower.data([name])
    run = page["runs"][0]
    return run["state"], run["series"]["approx_kl"]["x"] if run["series"] else []


def until(true, seconds=120):
    """Waits until a call is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_a_folder_is_a_table_of_its_runs_that_follows_them(tmp_path, page):
    for i in range(2):
        write(tmp_path / f"run-{i}", [row(k) for k in range(3)])
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.documentElement.dataset.drawn")
        cells = "[...document.querySelectorAll('#overview tbody tr')].map(x => x.innerText)"
        assert [text.split()[0] for text in page.run(cells)] == ["run-0", "run-1"]
        assert page.run("document.querySelectorAll('#overview polyline').length") == 2
        page.run("document.querySelector('#draw-1').focus()")
        page.press(" ", " ")
        page.wait("document.querySelectorAll('#runs input').length === 1")
        assert page.run("document.activeElement.id") == "draw-1"
        with open(tmp_path / "run-0" / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row(3)) + "\n" + '{"step": 5000, "ti')
        page.run("document.querySelector('#plot-approx_kl').scrollIntoView()")
        page.wait("document.querySelector('#plot-approx_kl').data?.[0].x.length === 4")
        page.wait(f"{cells}[0].includes('4,000')")
        write(tmp_path / "run-2", [row(0)])
        page.wait(f"{cells}.length === 3")
        assert page.errors == []
        assert {url.split("/")[2] for url in page.requests} == {f"127.0.0.1:{port}"}


def test_a_table_of_many_runs_leaves_room_for_their_figures_and_stays_where_it_was_scrolled_to(tmp_path, page):
    for i in range(40):
        write(tmp_path / ("a-name-without-end-" * 12 if i == 39 else f"run-{i:02}"), [row(k) for k in range(2)])
    page.size(1000, 800)
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.documentElement.dataset.drawn")
        table = "document.getElementById('overview')"
        assert page.run(f"{table}.clientHeight") <= 400
        assert page.run(f"{table}.scrollWidth - {table}.clientWidth") == 0
        page.run(f"{table}.scrollTop = 200")
        with open(tmp_path / "run-00" / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row(2)) + "\n")
        page.wait(f"{table}.innerText.includes('3,000')")
        assert page.run(f"{table}.scrollTop") == 200
        assert page.errors == []
    page.size(1280, 800)


def test_of_more_runs_than_are_drawn_those_that_go_on_stay_until_they_end(tmp_path, monkeypatch):
    going = {write(tmp_path / f"run-{i}", [row(0)]) for i in range(follow.SHOWN + 3)}
    monkeypatch.setattr("proximo.views.seen.is_running", lambda folder: folder in going)
    follower = Follower(tmp_path)

    def drawn(latest):
        folder = tmp_path / f"run-{latest}"
        os.utime(folder / "metrics.jsonl", ns=(2**61 + latest, 2**61 + latest))  # written to after all others
        return {run["name"] for run in follower.data()["runs"]}

    first = drawn(0)
    out, new = sorted({folder.name for folder in going} - first)[-2:]
    assert len(first) == follow.SHOWN
    assert drawn(int(out[4:])) == first
    going.remove(tmp_path / "run-0")
    assert drawn(int(new[4:])) == first - {"run-0"} | {new}


def test_runs_stand_in_the_order_of_their_numbers(tmp_path):
    names = ["a", "seed-2", "seed-10", "seed-10b", "trial-0009", "trial-0010"]
    for name in names[::-1]:
        write(tmp_path / name, [row(0)])
    assert [run["name"] for run in Follower(tmp_path).data()["overview"]] == names


def test_a_run_whose_settings_are_damaged_is_named_and_one_that_is_gone_is_not(tmp_path):
    write(tmp_path / "good", [row(0)])
    (write(tmp_path / "odd", [row(0)]) / "config.toml").write_text("seed = = 1")
    follower = Follower(tmp_path)
    said = "odd is not shown: its config.toml is damaged."
    page = follower.data()
    assert ([run["name"] for run in page["overview"]], said in page["notes"]) == (["good"], True)
    shutil.rmtree(tmp_path / "odd")
    assert said not in follower.data()["notes"]


def test_the_first_page_of_several_seeds_delays_no_look(tmp_path):
    """In a process of its own, where nothing is imported yet; the processor's time and not the clock is looked at."""
    for seed in range(2):
        run = write(tmp_path / f"run-{seed}", [row(k) for k in range(5)])
        (run / "config.toml").write_text(f'kind = "control"\nenvironment = "CartPole-v1"\nseed = {seed}\n')
    told = """
import sys
from pathlib import Path
from proximo.views.watch.follow import Follower
follower = Follower(Path(sys.argv[1]))
before = set(sys.modules)
assert follower.data()["groups"][0]["curve"]
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("rliable", "scipy")))
"""
    done = subprocess.run([sys.executable, "-c", told, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_film_can_be_played_and_gone_back_in_and_goes_on_while_the_run_does(tmp_path, page):
    run = write(tmp_path / "a run", [row(k) for k in range(3)])
    film(run / "videos" / "step-000000100.mp4")
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        video = "document.querySelector('video')"
        page.wait(f"{video}.readyState >= 2 && {video}.videoWidth === 64")
        page.run(f"{video}.currentTime = 3.5")
        page.wait(f"{video}.currentTime === 3.5 && {video}.readyState >= 2 && !{video}.seeking")
        page.run(f"{video}.currentTime = 0.5")
        page.wait(f"{video}.currentTime === 0.5 && !{video}.seeking")
        page.run(f"window.first = {video}; first.muted = true; first.playbackRate = 0.1; first.play().then(() => true)")
        write(run, [row(k) for k in range(4)])
        page.wait("data.runs[0].series.approx_kl.x.length === 4")
        assert page.run(f"{video} === first && !first.paused")
        film(run / "videos" / "step-000000200.mp4")
        page.wait("document.querySelectorAll('video').length === 2")
        write(tmp_path / "another", [row(0)])  # which changes what the page is made of
        page.wait("document.querySelectorAll('#overview tbody tr').length === 2")
        page.run("new Promise((next) => setTimeout(next, 50))")  # in which a browser would have paused it
        assert page.run(f"{video} === first && !first.paused")
        assert page.run("[...document.querySelectorAll('video')].map(x => x.ariaLabel)") == [
            "after 100 steps",
            "after 200 steps",
        ]
        assert page.errors == []


def test_a_setting_says_what_the_report_says_of_it(tmp_path):
    write(tmp_path / "run", [row(0)])
    shown, told = Follower(tmp_path).data()["settings"], page_data(read_runs([tmp_path / "run"]))["settings"]
    assert shown == told
    assert all(setting["text"] for setting in shown if setting["key"] != "kind")


def test_tokens_of_the_last_iteration_are_those_that_the_report_shows(talk, page):
    talk = Path(talk)
    follower = Follower(talk.parent)
    (shown,) = (run["credit"] for run in follower.data()["runs"])
    assert shown == credit.tokens(read_runs([talk])[0])
    assert follower.data()["runs"][0]["credit"] is shown, "nothing is read again that has not changed"
    with served(talk.parent) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.querySelectorAll('.credit .tokens').length === 6")
        page.run("document.querySelector('#credit-by').selectedIndex = 1")
        page.run("document.querySelector('#credit-by').dispatchEvent(new Event('change'))")
        last = max((talk / "tokens").iterdir())
        newer = last.with_name(f"{int(last.stem) + 1:06d}.safetensors")
        record = read_record(last)
        newer.write_bytes(replace(record, iteration=record.iteration + 1).to_bytes())
        try:
            page.wait(f"document.body.innerText.includes('What iteration {record.iteration + 1} learnt from')")
            assert page.run("document.querySelector('#credit-by').selectedIndex") == 1, "as the reader has chosen"
            assert page.run("document.querySelector('.credit-legend').innerText").startswith("kl")
        finally:
            newer.unlink()
        assert page.errors == []


def test_a_film_too_many_changes_a_note_and_leaves_the_figures_where_they_are(tmp_path, page):
    run = write(tmp_path / "run", [row(k) for k in range(3)])
    (run / "videos").mkdir()
    for k in range(7):
        (run / "videos" / f"step-{k}.mp4").write_bytes(b"")
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.body.innerText.includes('1 more videos of run are in its folder videos')")
        page.run("window.first = document.querySelector('#plot-approx_kl')")
        (run / "videos" / "step-8.mp4").write_bytes(b"")
        page.wait("document.body.innerText.includes('2 more videos of run are in its folder videos')")
        assert page.run("document.querySelector('#plot-approx_kl') === first")


def test_tokens_that_are_deleted_while_a_page_is_made_are_left_out(talk, tmp_path, monkeypatch):
    run = Path(shutil.copytree(talk, tmp_path / "run"))
    follower, known = Follower(tmp_path), credit.has_tokens

    def deleted(seen):
        found = known(seen)
        shutil.rmtree(run / "tokens", ignore_errors=True)
        return found

    monkeypatch.setattr(credit, "has_tokens", deleted)
    assert [drawn["credit"] for drawn in follower.data()["runs"]] == [None]


def test_of_films_only_those_of_the_runs_are_served_and_any_part_of_them(tmp_path):
    run, outside = write(tmp_path / "in" / "run", [row(0)]), tmp_path / "outside"
    (run / "videos").mkdir()
    outside.mkdir()
    content, secret = bytes(range(256)) * 4, SECRET.encode()
    (run / "videos" / "step-1.mp4").write_bytes(content)
    (run / "secret.mp4").write_bytes(secret)
    (outside / "far.mp4").write_bytes(secret)
    (run / "videos" / "linked.mp4").symlink_to(outside / "far.mp4")
    moved = write(tmp_path / "in" / "moved", [row(0)])
    (moved / "videos").symlink_to(outside)
    with served(tmp_path / "in") as port:
        shown = json.loads(asked(port, "/data")[1])["runs"]
        films = {x["name"]: [film["name"] for film in x["videos"]] for x in shown}
        assert films == {"run": ["step-1"], "moved": []}
        address = next(run["videos"][0]["source"] for run in shown if run["videos"])
        assert answered(port, address) == (200, content)
        for part, expected in (("0-", content), ("5-9", content[5:10]), ("1000-9999", content[1000:])):
            assert answered(port, address, Range=f"bytes={part}") == (206, expected)
        for odd in ("bytes=5000-", f"bytes={'9' * 5000}-", "bytes=9-5", "bytes=-1", "lines=0-1", "bytes=0-1,5-6"):
            assert answered(port, address, Range=odd) == (200, content)
        ways = ["../secret", "..%2fsecret", "%2e%2e%2fsecret", "linked", "step-1.mp4", "step-1%00", "", "%2f", "far"]
        ways += [f"{outside}/far", "../../../outside/far"]
        asks = [f"/video?run=run&name={name}" for name in ways] + ["/video", "/video?run=run", "/video?name=step-1"]
        asks += [
            "/video?run=moved&name=far",
            "/video?run=..&name=step-1",
            f"/video?run={run}&name=step-1",
            "/video/step-1",
        ]
        for path in asks:
            status, body = answered(port, path)
            assert (status, secret in body) == (404, False), path
        (run / "videos" / "step-1.mp4").unlink()
        (run / "videos" / "step-1.mp4").symlink_to(outside / "far.mp4")  # since the page was made
        assert answered(port, address)[0] == 404
        (run / "videos" / "step-1.mp4").unlink()
        assert answered(port, address)[0] == 404


def test_however_long_a_page_takes_the_next_look_comes_within_seconds(tmp_path, monkeypatch):
    write(tmp_path / "run", [row(0)])
    follower, now = Follower(tmp_path), [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.process_time", lambda: 3 * now[0])  # a page costs as much as we say
    first = follower.look()
    page_data = follow.page_data

    def slow(*arguments, **options):
        now[0] += 30
        return page_data(*arguments, **options)

    monkeypatch.setattr(follow, "page_data", slow)
    follower.data()
    write(tmp_path / "second", [row(0)])
    assert follower.look() == first, "the page has cost much, so there is a pause"
    now[0] += follow.LONGEST_PAUSE
    assert follower.look() == first + 1


def test_a_link_that_points_to_itself_hides_its_run_alone(tmp_path):
    write(tmp_path / "good", [row(0)])
    (write(tmp_path / "odd", [row(0)]) / "samples.jsonl").symlink_to("samples.jsonl")
    follower = Follower(tmp_path)
    assert follower.look() == 1
    page = follower.data()
    assert [run["name"] for run in page["overview"]] == ["good"]
    assert f"odd is not shown: its samples.jsonl is {AWAY}." in page["notes"]


def test_what_is_a_link_to_elsewhere_is_left_out_in_one_sentence_and_the_rest_is_shown(talk, tmp_path):
    root, outside = tmp_path / "runs", write(tmp_path / "outside", [row(0)])
    (outside / "videos").mkdir()
    (outside / "videos" / "far.mp4").write_bytes(b"")
    films, token, mixed = (write(root / name, [row(0)]) for name in ("films", "token", "mixed"))
    (films / "videos").symlink_to(outside / "videos")
    (mixed / "videos").mkdir()
    (mixed / "videos" / "near.mp4").write_bytes(b"")
    (mixed / "videos" / "far.mp4").symlink_to(outside / "videos" / "far.mp4")
    shutil.copy(Path(talk) / "config.toml", token)
    (token / "tokens").symlink_to(Path(talk) / "tokens")
    (root / "linked").symlink_to(outside)
    (root / "data").symlink_to(tmp_path)  # of no run, which says nothing
    follower = Follower(root)
    page = follower.data()
    assert {run["name"]: [film["name"] for film in run["videos"]] for run in page["runs"]} == {
        "films": [],
        "mixed": ["near"],
        "token": [],
    }
    said = [note for note in page["notes"] if AWAY in note]
    assert said == [
        f"The videos of films are not shown, or not all of them: there is {AWAY}.",
        f"The videos of mixed are not shown, or not all of them: there is {AWAY}.",
        f"The tokens of token are not shown, or not all of them: there is {AWAY}.",
        f"linked is not shown: it is {AWAY}.",
    ]
    (films / "videos").unlink()
    assert [note for note in follower.data()["notes"] if AWAY in note] == said[1:]


def test_parts_of_the_reward_have_a_figure_each_in_whatever_script_they_are_named(tmp_path, page):
    names = ["term/速度", "term/角度", "term/a-b", "term/a b", "term/a/b", "term/a.45b"]
    write(tmp_path / "run", [{**row(k), **{name: 10.0 * i + k for i, name in enumerate(names)}} for k in range(3)])
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.documentElement.dataset.drawn")
        last = "document.getElementById(idOf(name))"
        for i, name in enumerate(names):
            page.run(f"(({{name}}) => {last}.scrollIntoView())({json.dumps({'name': name})})")
            page.wait(f"(({{name}}) => {last}.data?.[0].y.at(-1) === {10 * i + 2})({json.dumps({'name': name})})")
        ids = "[...document.querySelectorAll('.plot')].map(x => x.id)"
        assert len(set(page.run(ids))) == len(page.run(ids)) == len(set(page.run("[...plots.keys()]")))
        assert page.errors == []


def test_a_finding_has_its_own_colour_and_not_that_of_the_worst_beside_it(tmp_path, page):
    rows = [{**row(k), "approx_kl": 5.0, "clipped_actions": 0.9} for k in range(3)]
    judge = TruthMeter()
    write(tmp_path / "run", [each | judge.judge(each).row for each in rows])
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.querySelectorAll('.finding').length")
        found = "[...document.querySelectorAll('.finding')].map(x => [x.className, x.innerText.slice(0, 40)])"
        severities = {text.split()[1]: kind.split()[1] for kind, text in page.run(found)}
    assert severities == {f.code.number: f.severity for f in TruthMeter().judge(rows[0]).findings}
    assert set(severities.values()) == {"amber", "red"}


def test_seeds_that_come_go_and_are_changed_are_shown_as_they_are(tmp_path, page):
    def settings(seed, steps=9000):
        return f'kind = "control"\nenvironment = "CartPole-v1"\nseed = {seed}\nsteps = {steps}\n'

    for seed in range(3):
        write(tmp_path / f"run-{seed}", [row(k) for k in range(3)] if seed < 2 else [])
        (tmp_path / f"run-{seed}" / "config.toml").write_text(settings(seed))
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.documentElement.dataset.drawn")
        drawn = "document.querySelector('#plot-result-0').data?.map(x => x.name)"
        page.run("document.querySelector('#plot-result-0').scrollIntoView()")
        page.wait(drawn)
        assert "IQM of 2 seeds" in page.run(drawn), "the third has no result yet, and is in no mean"
        page.run("document.querySelector('#draw-2').click()")  # now the reader has chosen: the first two
        page.wait("document.querySelectorAll('#runs input').length === 2")
        for seed in range(2):
            (tmp_path / f"run-{seed}" / "config.toml").write_text(settings(seed, 12_345))
        page.wait("document.getElementById('page').textContent.includes('12345')")
        shutil.rmtree(tmp_path / "run-1")
        page.wait("[...document.querySelectorAll('#runs label')].map(x => x.innerText.trim()).join() === 'run-0'")
        assert all("404" in error for error in page.errors)


def test_a_folder_without_runs_waits_for_the_first(tmp_path, page):
    with served(tmp_path) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("document.body.innerText.includes('There is no run here yet')")
        write(tmp_path / "first", [row(0), row(1)])
        page.wait("!!document.querySelector('#plot-approx_kl')")
        page.run("document.querySelector('#plot-approx_kl').scrollIntoView()")
        page.wait("document.querySelector('#plot-approx_kl').data?.length === 1")
        assert page.errors == []


def test_nothing_but_the_page_and_its_data_is_served(tmp_path):
    inside, outside = write(tmp_path / "in" / "run", [row(0)]), write(tmp_path / "outside", [row(0)])
    (outside / "secret.txt").write_text(SECRET)
    (outside / "samples.jsonl").write_text(
        json.dumps({"responses": 1, "prompt": SECRET, "response": SECRET, "score": 0}) + "\n"
    )
    (inside / "secret.txt").write_text(SECRET)
    (tmp_path / "in" / "linked").symlink_to(outside)
    half = write(tmp_path / "in" / "half", [row(0)])
    (half / "samples.jsonl").symlink_to(outside / "samples.jsonl")
    up = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "%252e%252e%252f", "..%c0%af")
    paths = [f"/{way * 3}outside/secret.txt" for way in up] + [f"/data?run={way}outside" for way in up]
    paths += [
        "/run/secret.txt",
        "/run/metrics.jsonl",
        f"/{outside}/secret.txt",
        f"/{inside}",
        "/data/../run/secret.txt",
    ]
    paths += ["/data?run=linked", "/data?run=half", f"/data?run={outside}", "/data?run=run%00", "//outside", "/data/"]
    with served(tmp_path / "in") as port:
        for path in paths:
            status, body = asked(port, path)
            assert (status, SECRET in body) == (404, False), path
        status, body = asked(port, "/data")
        assert status == 200
        assert [run["name"] for run in json.loads(body)["overview"]] == ["run"]
        assert SECRET not in body


def test_a_page_under_another_name_is_not_answered(tmp_path):
    write(tmp_path / "run", [row(0)])
    with served(tmp_path) as port:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.evil.example", ""):
            assert asked(port, "/data", host or " ")[0] == 403
        assert asked(port, "/data", f"localhost:{port}")[0] == 200


def test_a_port_that_is_taken_is_passed_over_and_ctrl_c_is_a_good_end(tmp_path):
    write(tmp_path / "run", [row(0)])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "proximo", "watch", str(tmp_path), "--port", str(port)]
        with warm.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == f"port {port} is taken\n"
            address = process.stdout.readline().split(" at ")[1].split()[0]
            actual = int(address.rstrip("/").rpartition(":")[2])
            assert port < actual < port + 50
            assert asked(actual, "/")[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


def test_a_port_that_is_refused_is_not_called_taken(tmp_path, monkeypatch):
    """The kernel's refusal is planted: these tests may run as root, whom it refuses no port."""
    tried = []

    def refused(server):
        tried.append(server.server_address[1])
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Server, "server_bind", refused)
    with pytest.raises(UserError, match="port 1000 may not be opened by this user"):
        open_server(tmp_path, 1000)
    assert tried == [1000]


def test_only_on_port_80_the_host_has_no_port(tmp_path):
    write(tmp_path / "run", [row(0)])
    with open_server(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port, server.server_port = server.server_port, 80  # what the server believes, so that no test needs root
        assert [asked(port, "/data", host)[0] for host in ("127.0.0.1", "localhost", "evil.example")] == [200, 200, 403]
        server.server_port = port
        assert asked(port, "/data", "127.0.0.1")[0] == 403
        server.shutdown()
        thread.join()


def test_a_file_that_was_replaced_by_a_longer_one_is_read_anew(tmp_path):
    file = write(tmp_path / "run", [row(i) for i in range(3)]) / "metrics.jsonl"
    tail = Tail(file)
    assert len(tail.rows()) == 3
    again = [{**row(i), "return": -1.0} for i in range(5)]
    write(tmp_path / "resumed", again)
    os.replace(tmp_path / "resumed" / "metrics.jsonl", file)
    assert tail.rows() == again


def test_what_can_not_be_watched_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        proximo.watch(tmp_path / "nowhere")
    with pytest.raises(UserError, match="between 0 and 65535"):
        proximo.watch(tmp_path, port=70_000)


def test_a_run_that_is_killed_and_resumed_is_shown_as_it_is(tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "proximo",
        "train",
        "CartPole-v1",
        "--quiet",
        "--steps",
        "60000",
        "--run",
        str(run),
    ]
    follower = Follower(tmp_path)
    with warm.Popen(command, stdout=subprocess.DEVNULL) as process:
        until(lambda: (run / "metrics.jsonl").exists() and len(Tail(run / "metrics.jsonl").rows()) > 3)
        state, steps = shown(follower, "run")
        assert state == "running"
        process.kill()
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 61000, "time": 1.0, "approx')  # the kill tore a line
    before = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    assert shown(follower, "run") == ("stopped", before)
    assert steps == before[: len(steps)]
    # Resumed from a checkpoint: rows after it are gone, and are written again.
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    fresh = run / "metrics.new"
    fresh.write_text("".join(json.dumps(x) + "\n" for x in rows[:2]))
    os.replace(fresh, run / "metrics.jsonl")
    assert shown(follower, "run") == ("stopped", before[:2])
    with open(run / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps({**x, "approx_kl": 0.5}) + "\n" for x in rows[2:])
    assert follower.data(["run"])["runs"][0]["series"]["approx_kl"]["y"][2:] == [0.5] * (len(rows) - 2)
    shutil.rmtree(run)
    assert follower.data()["overview"] == []
