"""`--max-steps`: commands on one store wait for each other's steps, say so, and go on."""

import signal

import pytest
from support.command import Command, Running
from support.containers import processes_in

WAITS = '(run (shell "echo up {name}; until test -e /go; do usleep 9000; done; echo done"))'


def start(obuilder: Command, name: str, *options: str) -> Running:
    return obuilder.start(WAITS.format(name=name), *(options or ["--max-steps=1"]))


def let_end(obuilder: Command) -> None:
    (temporary,) = (obuilder.directory / "store" / "result-tmp").iterdir()
    (temporary / "rootfs" / "go").touch()


@pytest.fixture
def first(obuilder: Command) -> Running:
    running = start(obuilder, "one")
    running.wait_for(b"\nup one\n")
    return running


@pytest.fixture
def second(obuilder: Command, first: Running) -> Running:
    second = start(obuilder, "two")
    second.wait_for(
        b"\nWaiting for the one slot (max-steps), which process %d has had since "
        % first.process.pid
    )
    assert b"\nup two\n" not in second.output
    return second


def test_a_command_waits_for_the_slot_of_another_and_says_so(
    obuilder: Command, first: Running, second: Running
) -> None:
    let_end(obuilder)
    assert first.end()[0] == 0
    second.wait_for(b"\nup two\n")
    let_end(obuilder)
    code, printed, stderr = second.end()
    assert code == 0, stderr
    assert printed.count(b"Waiting") == 1


def test_ctrl_c_ends_the_wait(obuilder: Command, first: Running, second: Running) -> None:
    second.signal(signal.SIGINT)
    assert second.end()[0] == 130
    let_end(obuilder)
    assert first.end()[0] == 0
    assert list((obuilder.directory / "store" / "state" / "locks").iterdir()) == []


def test_what_a_killed_command_left_running_is_ended_before_its_slot_is_used(
    obuilder: Command, first: Running, second: Running
) -> None:
    (left,) = (obuilder.directory / "store" / "result-tmp").iterdir()
    assert processes_in(left) != []
    first.signal(signal.SIGKILL)
    assert first.end()[0] == -signal.SIGKILL
    second.wait_for(b"\nup two\n")
    assert processes_in(left) == []
    temporary = {each for each in left.parent.iterdir() if each != left}
    (temporary.pop() / "rootfs" / "go").touch()
    code, _, stderr = second.end()
    assert code == 0, stderr
    assert b"removing a container that a dead builder left" in stderr
    assert obuilder("fsck", "--repair").returncode == 0
    assert not left.exists()
    assert obuilder("fsck").returncode == 0


def test_a_file_of_settings_sets_the_limit(obuilder: Command, first: Running) -> None:
    path = obuilder.directory / "limits.toml"
    path.write_text("[build]\nmax-steps = 1\n")
    second = start(obuilder, "two", "--config", str(path))
    second.wait_for(b"\nWaiting for the one slot")
    for running, name in ((first, b"one"), (second, b"two")):
        running.wait_for(b"\nup %s\n" % name)
        let_end(obuilder)
        assert running.end()[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "must be a whole number from 1 to 500, not 0; without it there is no limit"),
        ("-2", "must be a whole number from 1 to 500, not -2; without it there is no limit"),
        ("501", "must be a whole number from 1 to 500, not 501; without it there is no limit"),
        ('"two"', 'expected a whole number, found the text "two"'),
        ("true", "expected a whole number, found true"),
    ],
)
def test_a_number_that_cannot_be_is_one_error(obuilder: Command, text: str, said: str) -> None:
    path = obuilder.directory / "limits.toml"
    path.write_text(f"[build]\nmax-steps = {text}\n")
    for options, source in (
        (("--config", str(path)), str(path)),
        (("-o", f"build.max-steps={text}"), "-o"),
    ):
        done = obuilder.build("", *options)
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"obuilder: {source}: build")
        assert "max-steps" in line
        assert said in line


@pytest.mark.parametrize("text", ["0", "-1", "501", "two"])
def test_an_option_that_cannot_be_names_itself_and_the_numbers(
    obuilder: Command, text: str
) -> None:
    done = obuilder.build("", f"--max-steps={text}")
    assert done.returncode == 2
    message = done.stderr.decode()
    assert "'--max-steps': " in message
    assert text in message
    assert "1<=x<=500" in message or "is not a valid int range" in message
