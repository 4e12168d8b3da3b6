"""Examples that a small model is shown before it is asked whether a tool is needed (`tool_gate.py`)."""

from typing import Final

Exchange = tuple[str, str]
"""A call and its result."""

MESSAGE_EXAMPLES: Final[tuple[tuple[str, bool], ...]] = (
    ("What is polymorphism?", False),
    ("Open main.go.", True),
    ("Good morning", False),
    ("Rename the class Foo to Bar.", True),
    ("What is 12 plus 30?", False),
    ("Does this project use React?", True),
    ("How do I sort a list in Ruby? Only tell me, change nothing.", False),
    ("Delete the folder build.", True),
    ("Perfect, thanks a lot", False),
    ("Where is the class Parser defined?", True),
    ("Write a limerick about the sea.", False),
    ("How much memory is in use?", True),
    ("Explain how the cache works in this repository.", True),
    ("Explain how a cache works.", False),
    ("Summarize NOTES.txt.", True),
    ("How do you say water in Spanish?", False),
    ("Sum up what https://example.org/news says.", True),
    ("Who wrote Hamlet?", False),
    ("Write a script that renames photos.", True),
    ("What is the difference between a process and a thread?", False),
    ("Which version of Node do we have?", True),
    ("Give me a word that rhymes with house.", False),
    ("Set the timeout to 30 seconds.", True),
    ("What does an index do in a database?", False),
    ("Is the earth round?", False),
    ("Is there a README?", True),
    ("Tell me something funny.", False),
    ("Make the button blue.", True),
    ("Compare Java with C#.", False),
    ("Why is the server crashing?", True),
    ("What are you able to do?", False),
    ("Undo that.", True),
    ("Translate the word tree into Italian.", False),
    ("Show the diff.", True),
    ("Well done", False),
    ("Check the logs.", True),
)
"""Messages, and whether an answer needs a tool."""

RESULT_EXAMPLES: Final[tuple[tuple[str, tuple[Exchange, ...], bool], ...]] = (
    ("Open main.go.", (('read {"filePath": "main.go"}', "package main\n\nfunc main() {}"),), False),
    ("Rename the class Foo to Bar in model.py.", (('read {"filePath": "model.py"}', "class Foo:\n    pass"),), True),
    (
        "Rename the class Foo to Bar in model.py.",
        (
            ('read {"filePath": "model.py"}', "class Foo:\n    pass"),
            (
                'edit {"filePath": "model.py", "oldString": "class Foo", "newString": "class Bar"}',
                "Edit applied successfully.",
            ),
        ),
        False,
    ),
    ("How much memory is in use?", (('bash {"command": "free -h"}', "Mem: 15Gi 4.2Gi"),), False),
    (
        "Explain how the cache works in this repository.",
        (('glob {"pattern": "**/*cache*"}', "/app/src/cache.py"),),
        True,
    ),
    ("Delete the folder build.", (('bash {"command": "rm -r build"}', ""),), False),
    (
        "Fix the failing test.",
        (('bash {"command": "pytest"}', "FAILED test_sum.py::test_sum - assert 3 == 4\n1 failed"),),
        True,
    ),
    ("Set the timeout to 30 seconds in conf.ini.", (('read {"filePath": "conf.ini"}', "timeout = 10"),), True),
    ("Show the diff.", (('bash {"command": "git diff"}', "diff --git a/x b/x\n-a\n+b"),), False),
    (
        "Write a script that renames photos.",
        (('write {"filePath": "rename.sh", "content": "for f in *.jpg; do mv"}', "Wrote file successfully."),),
        False,
    ),
    ("Summarize NOTES.txt.", (('read {"filePath": "NOTES.txt"}', "Meeting on Monday. We chose Postgres."),), False),
    ("Is there a README?", (('glob {"pattern": "README*"}', "No files found"),), False),
    ("Find all calls of open().", (('grep {"pattern": "open("}', "error: unclosed group"),), True),
    ("Check the logs.", (('bash {"command": "cat app.log"}', "cat: app.log: No such file or directory"),), True),
    ("Create a folder docs and put an index.md into it.", (('bash {"command": "mkdir docs"}', ""),), True),
    (
        "Create a folder docs and put an index.md into it.",
        (
            ('bash {"command": "mkdir docs"}', ""),
            ('write {"filePath": "docs/index.md", "content": "# Index"}', "Wrote file successfully."),
        ),
        False,
    ),
    ("Which version of Node do we have?", (('bash {"command": "node --version"}', "v18.2.0"),), False),
    (
        "Make the button blue.",
        (('grep {"pattern": "button"}', "/app/style.css:\n  Line 9: .button { color: red; }"),),
        True,
    ),
)
"""Tasks, what was done about them, and whether another call is needed."""
