"""What scripts do to a directory, as Python text: each is run with the directory as argument.

`SCENARIOS` maps a name to what lays the directory out and what then changes it. They are run
on overlays, through the whole sandbox, and on a plain copy: all must come to the same.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = """
import errno, os, shutil, sys
directory = sys.argv[1]
os.chdir(directory)
OLD = 1_500_000_000

def write(path, text, mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)

def age(top):
    for base, directories, files in os.walk(top):
        for name in directories + files:
            try:
                os.utime(os.path.join(base, name), (OLD, OLD), follow_symlinks=False)
            except OSError:
                pass  # deeper than a path can say

def clear(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

def move(old, new):
    # As mv does it where rename(2) cannot: overlays of an ordinary user rename no directory.
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if os.path.isdir(new):
            os.rmdir(new)
        shutil.copytree(old, new, symlinks=True)
        shutil.rmtree(old)

def make(kind, path, label):
    if kind == "file":
        write(path, label + " one\\n" + label + " two\\n")
    elif kind == "empty_directory":
        os.mkdir(path)
    elif kind == "full_directory":
        os.mkdir(path)
        write(path + "/same", "the same\\n")
        write(path + "/other", label + "\\n", 0o600)
        write(path + "/only-" + label, "x\\n")
        os.mkdir(path + "/sub", 0o750)
        write(path + "/sub/program", "#!/bin/sh\\n", 0o755)
        write(path + "/sub/at-" + label, label)
        os.symlink("same", path + "/link")
        os.mkdir(path + "/kind-" + label)
        write(path + "/kind-" + label + "/inner", label)
    elif kind == "link_to_file":
        os.symlink("beside/file", path)
    elif kind == "link_to_directory":
        os.symlink("beside", path)
    elif kind == "dangling":
        os.symlink("nowhere-" + label, path)
    elif kind == "fifo":
        os.mkfifo(path, 0o640)
    elif kind == "recreated":
        # Names of before with other types, in a directory that is another one.
        os.mkdir(path, 0o711)
        write(path + "/same", "no longer the same\\n")
        os.mkdir(path + "/other")
        write(path + "/other/deep", "deep\\n")
        write(path + "/sub", "was a directory\\n")
        os.mkdir(path + "/link")
        write(path + "/new", "new\\n")
    else:
        assert kind == "absent", kind
"""

KINDS = (
    "absent",
    "file",
    "empty_directory",
    "full_directory",
    "link_to_file",
    "link_to_directory",
    "dangling",
    "fifo",
)

_BESIDE = """
os.mkdir("beside")
write("beside/file", "beside\\n")
"""


@dataclass(frozen=True)
class Scenario:
    """`layout` makes the starting state, `change` is the script; `untouched` are paths below the
    directory that the plan leaves as they were, since it cannot make what the script made."""

    layout: str
    change: str
    untouched: tuple[str, ...] = ()


def _pair(was: str, became: str) -> Scenario:
    return Scenario(
        _BESIDE + f"make({was!r}, 'thing', 'before')",
        f"clear('thing')\nmake({became!r}, 'thing', 'after')",
        ("thing",) if became == "fifo" else (),
    )


PAIRS: dict[str, Scenario] = {
    f"{was}-to-{became}": _pair(was, became) for was in KINDS for became in (*KINDS, "recreated")
}

_TREE = _BESIDE + "make('full_directory', 'tree', 'before')\n"

RENAMES: dict[str, Scenario] = {
    "directory": Scenario(_TREE, "move('tree', 'moved')"),
    "directory_and_back": Scenario(_TREE, "move('tree', 'moved')\nmove('moved', 'tree')"),
    "directory_over_empty": Scenario(_TREE + "os.mkdir('place')", "move('tree', 'place')"),
    "directory_then_inside": Scenario(
        _TREE,
        "move('tree', 'moved')\nwrite('moved/other', 'changed\\n')\nos.unlink('moved/same')\n"
        "write('moved/sub/new', 'new\\n')\nos.chmod('moved', 0o700)",
    ),
    "directory_into_new": Scenario(
        _TREE, "os.makedirs('new/deeper')\nmove('tree', 'new/deeper/tree')"
    ),
    "child_out": Scenario(_TREE, "move('tree/sub', 'sub')"),
    "child_out_then_parent_away": Scenario(_TREE, "move('tree/sub', 'sub')\nshutil.rmtree('tree')"),
    "child_out_then_parent_renamed": Scenario(
        _TREE, "move('tree/sub', 'sub')\nmove('tree', 'moved')"
    ),
    "parent_into_child": Scenario(_TREE, "move('tree/sub', 'sub')\nmove('tree', 'sub/tree')"),
    "child_takes_the_place": Scenario(
        _TREE, "move('tree/sub', 'sub')\nshutil.rmtree('tree')\nmove('sub', 'tree')"
    ),
    "child_becomes_parent": Scenario(
        _TREE,
        "move('tree/sub', 'sub')\nmove('tree', 'sub/tree')\nmove('sub', 'tree')",
    ),
    "swap": Scenario(
        _TREE + "os.mkdir('second')\nwrite('second/mine', 'mine\\n')",
        "move('tree', 'third')\nmove('second', 'tree')\nmove('third', 'second')\n"
        "write('second/after', 'x')\nwrite('tree/mine', 'changed')",
    ),
    "cycle_of_three": Scenario(
        "for name in 'abc':\n    os.mkdir(name)\n    write(name + '/' + name, name)",
        "move('a', 't')\nmove('b', 'a')\nmove('c', 'b')\nmove('t', 'c')",
    ),
    "replaced_by_new": Scenario(
        _TREE, "move('tree', 'moved')\nmake('full_directory', 'tree', 'after')"
    ),
    "replaced_by_file": Scenario(_TREE, "move('tree', 'moved')\nwrite('tree', 'file\\n')"),
    "over_deleted": Scenario(
        _TREE + "make('full_directory', 'old', 'older')",
        "shutil.rmtree('old')\nmove('tree', 'old')",
    ),
    "over_file": Scenario(_TREE + "write('old', 'file')", "os.unlink('old')\nmove('tree', 'old')"),
    "nested_in_moved": Scenario(
        _TREE + "os.mkdir('second')\nwrite('second/mine', 'mine\\n')",
        "move('tree', 'moved')\nmove('second', 'moved/second')\n"
        "move('moved/sub', 'moved/second/sub')",
    ),
    "file": Scenario(_BESIDE + "write('one', 'content\\n')", "move('one', 'two')"),
    "file_over_file": Scenario(
        _BESIDE + "write('one', 'content\\n')\nwrite('two', 'old\\n')", "move('one', 'two')"
    ),
    "files_swap": Scenario(
        "write('one', 'content\\n')\nwrite('two', 'old\\n')",
        "move('one', 't')\nmove('two', 'one')\nmove('t', 'two')",
    ),
    "file_into_new_directory": Scenario(
        "write('one', 'content\\n')", "os.mkdir('new')\nmove('one', 'new/one')"
    ),
    "many_alike": Scenario(
        "for number in range(4):\n    write(f'f{number}', 'alike\\n')",
        "for number in range(4):\n    move(f'f{number}', f'g{number}')",
    ),
}

CHANGES: dict[str, Scenario] = {
    "nothing": Scenario(_TREE, "open('tree/same').read()\nos.listdir('tree')"),
    "append": Scenario(
        "write('log', 'first\\n')", "with open('log', 'a') as file:\n    file.write('second\\n')"
    ),
    "append_to_empty": Scenario("write('log', '')", "write('log', 'first\\n')"),
    "truncate": Scenario("write('log', 'first\\nsecond\\n')", "os.truncate('log', 6)"),
    "empty": Scenario("write('log', 'first\\n')", "os.truncate('log', 0)"),
    "write_the_same": Scenario("write('file', 'x')", "write('file', 'x')"),
    "mode": Scenario(_TREE, "os.chmod('tree/same', 0o4711)\nos.chmod('tree/sub', 0o2755)"),
    "mode_and_back": Scenario(_TREE, "os.chmod('tree/same', 0o600)\nos.chmod('tree/same', 0o644)"),
    "touch": Scenario(_TREE, "os.utime('tree/same', ns=(10**18, 10**18 + 5))"),
    "touch_link": Scenario(
        _TREE, "os.utime('tree/link', ns=(10**18, 10**18 + 5), follow_symlinks=False)"
    ),
    "move_link": Scenario(_TREE, "move('tree/link', 'elsewhere')"),
    "touch_future": Scenario(_TREE, "os.utime('tree/same', (4 * 10**9, 4 * 10**9))"),
    "write_and_touch": Scenario(
        _TREE, "write('tree/other', 'y')\nos.utime('tree/other', (10**9, 10**9))"
    ),
    "unreadable": Scenario(
        _TREE,
        "write('tree/hidden', 'secret\\n', 0)\nos.mkdir('closed')\nwrite('closed/file', 'x')\n"
        "os.mkdir('closed/deeper')\nwrite('closed/deeper/file', 'y')\n"
        "os.chmod('closed/deeper', 0)\nos.chmod('closed', 0o111)",
    ),
    "closed_after_change": Scenario(
        _TREE, "write('tree/new', 'x')\nos.unlink('tree/same')\nos.chmod('tree', 0o555)"
    ),
    "opened_for_change": Scenario(
        _TREE + "os.chmod('tree', 0o555)",
        "os.chmod('tree', 0o755)\nwrite('tree/new', 'x')\nwrite('tree/other', 'x')",
    ),
    "xattrs": Scenario(
        _TREE + "os.setxattr('tree/same', 'user.old', b'1')\n"
        "os.setxattr('tree/other', 'user.kept', b'1')",
        "os.setxattr('tree/same', 'user.new', b'\\0\\xff')\n"
        "os.removexattr('tree/same', 'user.old')\n"
        "os.setxattr('tree', 'user.directory', b'x')\nwrite('tree/other', 'x')\n"
        "write('tree/fresh', 'x')\nos.setxattr('tree/fresh', 'user.overlay.opaque', b'y')\n"
        "os.setxattr('tree/sub', 'user.overlay.opaque', b'y')\nos.chmod('tree/fresh', 0o444)",
    ),
    "hard_link": Scenario(_TREE, "os.link('tree/same', 'tree/twin')"),
    "hard_link_new": Scenario(
        "", "write('b', 'one')\nos.link('b', 'a')\nos.mkdir('d')\nos.link('b', 'd/c')"
    ),
    "hard_link_over": Scenario(
        _TREE, "os.unlink('tree/other')\nos.link('tree/same', 'tree/other')"
    ),
    "hard_link_changed": Scenario(_TREE, "write('tree/same', 'new')\nos.link('tree/same', 'a')"),
    "binary": Scenario(
        "write('x', 'text')", "with open('x', 'wb') as file:\n    file.write(bytes(range(256)) * 9)"
    ),
    "sparse": Scenario(
        "",
        "with open('sparse', 'wb') as file:\n    file.write(b'begin')\n    file.seek(30_000_000)\n"
        "    file.write(b'end')\n    file.truncate(40_000_000)",
    ),
    "strange_names": Scenario(
        "write(b'old-\\xff\\xfe', 'x')",
        "os.unlink(b'old-\\xff\\xfe')\nwrite(b'bad-\\xff\\n', 'x')\nwrite('-rf \\t\"', 'y')\n"
        "os.symlink(b'\\xff', 'link')\nwrite('n' * 255, 'z')",
    ),
    "deep": Scenario(
        "",
        "for number in range(1000):\n    os.mkdir('directory-x')\n    os.chdir('directory-x')\n"
        "write('bottom', 'x')",
    ),
    "deep_gone": Scenario(
        "for number in range(1000):\n    os.mkdir('directory-x')\n    os.chdir('directory-x')\n"
        "write('bottom', 'x')\nos.chdir(directory)",
        "import subprocess\nsubprocess.run(['rm', '-rf', 'directory-x'], check=True)",
    ),
    "deep_change": Scenario(
        "for number in range(1000):\n    os.mkdir('directory-x')\n    os.chdir('directory-x')\n"
        "write('bottom', 'x')\nos.chdir(directory)",
        "for number in range(1000):\n    os.chdir('directory-x')\nwrite('bottom', 'y')\n"
        "os.mkdir('new')",
    ),
    "times_of_a_new_tree": Scenario(
        "", "make('full_directory', 'new', 'x')\nage('new')\nos.utime('new', (OLD, OLD))"
    ),
    "link_target": Scenario(
        "os.symlink('a', 'link')", "os.unlink('link')\nos.symlink('b', 'link')"
    ),
    "everything_gone": Scenario(_TREE, "for name in os.listdir('.'):\n    clear(name)"),
}

OWNERS: dict[str, Scenario] = {
    "owner": Scenario(
        _TREE, "os.chown('tree/same', 1, 2)\nos.chown('tree', 3, 4)\nos.lchown('tree/link', 5, 6)"
    ),
    "setuid": Scenario(
        _TREE, "write('tree/new', 'x')\nos.chown('tree/new', 1, 1)\nos.chmod('tree/new', 0o6755)"
    ),
    "capability": Scenario(
        _TREE,
        "value = bytes.fromhex('0100000200040000000000000000000000000000')\n"
        "os.setxattr('tree/sub/program', 'security.capability', value)\n"
        "write('tree/new', 'x')\nos.setxattr('tree/new', 'security.capability', value)",
    ),
    "acl": Scenario(
        _TREE,
        "acl = bytes.fromhex('02000000' '01000600ffffffff' '0200060001000000' '04000400ffffffff'\n"
        "    '10000600ffffffff' '20000400ffffffff')\n"
        "os.setxattr('tree/same', 'system.posix_acl_access', acl)\n"
        "write('tree/new', 'x')\nos.setxattr('tree/new', 'system.posix_acl_access', acl)\n"
        "os.setxattr('tree/sub', 'system.posix_acl_default', acl)\nwrite('tree/sub/heir', 'x')",
    ),
}

SCENARIOS: dict[str, Scenario] = {
    **{f"pair-{name}": scenario for name, scenario in PAIRS.items()},
    **{f"rename-{name}": scenario for name, scenario in RENAMES.items()},
    **{f"change-{name}": scenario for name, scenario in CHANGES.items()},
    **{f"owner-{name}": scenario for name, scenario in OWNERS.items()},
}


def layout_script(scenario: Scenario) -> str:
    """The text that lays out the directory; all times in it are old."""
    return PRELUDE + scenario.layout + "\nos.chdir(directory)\nage('.')\n"


def change_script(scenario: Scenario) -> str:
    """The script itself."""
    return PRELUDE + scenario.change + "\n"
