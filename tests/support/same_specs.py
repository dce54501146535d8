"""Twenty specs that must give the same ids and files on every store, each hard in its own way.

What matters lies in `/t`, whose times the last step sets: all else about it can be compared.
"""

from pathlib import Path

__all__ = ["SPECS", "make_source"]

_SEAL = """(run (shell "find /t -depth -exec touch -h -d '2001-02-03 04:05:06' {} +"))"""

# One `run` for each string: what is made in one step is changed in a later one.
_RUNS: dict[str, tuple[str, ...]] = {
    "hard-links": (
        "mkdir /t; cd /t; echo one > a; ln a b; mkdir d; ln a d/c; ln -s a l; ln l l2",
        "cd /t; echo two >> d/c; rm a; ln b e; rm l",
    ),
    "directory-moved": (
        "mkdir -p /t/a/b/c; echo x > /t/a/b/c/f; chmod 700 /t/a/b",
        "cd /t; mv a z; mkdir a; echo new > a/f",
        "cd /t; mv z/b a/b; rmdir z; mv a/b/c c",
    ),
    "directory-replaced": (
        "mkdir -p /t/d/e; echo x > /t/d/e/f; echo y > /t/d/g",
        "rm -r /t/d; mkdir /t/d; echo z > /t/d/g",
        "mkdir /t/d/e; echo w > /t/d/e/h",
    ),
    "kinds-changed": (
        "mkdir -p /t/d/e /t/l; cd /t; touch f; ln -s f s; mkfifo p; mknod c c 1 3; mknod b b 7 9",
        "cd /t; rm -r d f s p c b l; echo d > d; mkdir f; ln -s d p; mkdir s; mkfifo c; ln -s no l",
        "cd /t; rm -r f; ln -s d f; rm p; mknod p c 1 5; mkdir b; echo in > b/in",
    ),
    "deleted-and-made-again": (
        "mkdir -p /t/d; cd /t; for n in 1 2 3 4 5; do echo $n > d/$n; done",
        "rm /t/d/1 /t/d/2 /t/d/3",
        "echo again > /t/d/2; mkdir /t/d/3",
        "rm -r /t/d/3 /t/d/4; ln /t/d/2 /t/d/4",
    ),
    "deleted-parents": (
        "mkdir -p /t/a/b/c/d; touch /t/a/b/c/d/e /t/a/x",
        "rm -r /t/a",
        "mkdir -p /t/a/b; touch /t/a/b/only",
    ),
    "owners-and-modes": (
        "mkdir /t; cd /t; touch f g h; mkdir d; chown 12:34 f d; chmod 4755 g; chmod 2750 d",
        "cd /t; chown 0:56 f; chmod 1777 d; chmod 0 h; chown 7:8 g; ln -s f l; chown -h 9:10 l",
        "cd /t; chown -R 1:2 d g; chmod 6711 g",
    ),
    "same-contents-again": (
        "mkdir /t; echo same > /t/f; cp /t/f /t/g",
        "echo same > /t/f; cat /t/g > /t/h; cp /t/h /t/g",
        "echo same > /t/new; mv /t/new /t/f",
    ),
    "only-times": (
        "mkdir -p /t/d; echo x > /t/d/f; ln -s f /t/d/l",
        "touch -d '1999-01-01' /t/d/f /t/d; touch -h -d '1998-01-01' /t/d/l",
    ),
    "holes": (
        "mkdir /t; truncate -s 20M /t/sparse; echo end >> /t/sparse; truncate -s 9K /t/empty",
        "cd /t; echo x | dd of=sparse bs=1M seek=7 conv=notrunc 2> /dev/null; truncate -s 8K empty",
    ),
    "large-and-small-changes": (
        "mkdir /t; seq 1 400000 > /t/big; cp /t/big /t/copy",
        "printf X | dd of=/t/big bs=1 seek=1234567 conv=notrunc 2> /dev/null; echo end >> /t/copy",
    ),
    "odd-names": (
        r"mkdir /t; cd /t; touch -- '-rf' ' ' 'a b' '*' '\\n' '.wh.f' '.wh..wh..opq' 100%",
        r"cd /t; touch -- \"$(printf \"new\\nline\")\" \"$(printf \"\\377\\200\")\"",
        "cd /t; rm -- ' ' '.wh.f'; mkdir '.wh.d'; touch -- '.wh.d/f' '-x'",
    ),
    "many-files": (
        "mkdir /t; cd /t; for n in $(seq 1 300); do echo $n > f$n; done",
        "cd /t; rm f*7; for n in $(seq 1 50); do mkdir d$n; mv f${n}0 d$n 2> /dev/null; done; true",
    ),
    "deep": (
        "mkdir /t; cd /t; for n in $(seq 1 60); do mkdir directory-$n; cd directory-$n; done",
        "cd /t; for n in $(seq 1 59); do cd directory-$n; done; mv directory-60 ../moved; touch g",
    ),
    "links-of-directories": (
        "mkdir -p /t/real/sub; ln -s real /t/link; echo x > /t/link/sub/f",
        "rm /t/link; mv /t/real /t/link; ln -s link /t/real",
    ),
    "nothing-changed": ("mkdir /t; echo x > /t/f", "true", "cat /t/f"),
}

_WHOLE = {
    "copies": """
 (copy (src .) (dst /t/) (exclude skip))
 (copy (src hello.txt) (dst /t/renamed))
 (user (uid 1000) (gid 1001))
 (copy (src sub hello.txt) (dst /t/owned/))
 (user (uid 0) (gid 0))
 (run (shell "rm -r /t/sub; echo more >> /t/renamed"))
 (copy (src sub) (dst /t/sub))""",
    "caches": """
 (run (cache (c (target /cache))) (shell "mkdir /t; echo one > /cache/f; cp /cache/f /t/f"))
 (run (cache (c (target /cache)) (odd/name (target /other)))
   (shell "echo two >> /cache/f; cp -a /cache /t/c; ls -a /other > /t/other"))""",
    "secrets": """
 (run (secrets (token (target /run/token))) (shell "mkdir /t; wc -c < /run/token > /t/length"))
 (run (shell "ls /run > /t/run; test ! -s /run/token; test ! -d /run/token"))""",
    "contexts": """
 (env GREETING "a b") (env EMPTY "") (workdir /t/work) (user (uid 5) (gid 6))
 (run (shell "echo $GREETING-$EMPTY > /tmp/said; id -u >> /tmp/said; pwd >> /tmp/said"))
 (user (uid 0) (gid 0)) (workdir sub)
 (run (shell "mv /tmp/said ../; env | sort > env"))""",
}

_STAGE = """(build other ((from archive:busybox.tar) (shell /bin/sh -c)
   (run (shell "mkdir -p /d/e; echo one > /d/e/f; ln /d/e/f /d/g; ln -s g /d/l"))
   (run (shell "echo two >> /d/g; chmod 711 /d/e"))))"""


def _specs() -> dict[str, str]:
    bodies = {
        name: "\n ".join(f'(run (shell "{command}"))' for command in commands)
        for name, commands in _RUNS.items()
    } | _WHOLE
    # One of them takes from another stage.
    bodies["links-of-directories"] += "\n (copy (from (build other)) (src /d) (dst /t/other))"
    return {
        name: f"({_STAGE if 'build other' in body else ''}(from archive:busybox.tar)"
        f" (shell /bin/sh -c)\n {body}\n {_SEAL})"
        for name, body in bodies.items()
    }


SPECS = _specs()
"""The text of each by its name."""


def make_source(source: Path) -> None:
    """The tree that they copy from."""
    (source / "hello.txt").write_text("hi\n")
    (source / "skip").write_text("not me\n")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "sub").mkdir()
    (source / "sub" / "inside").write_text("i\n")
    (source / "sub" / "link").symlink_to("inside")
