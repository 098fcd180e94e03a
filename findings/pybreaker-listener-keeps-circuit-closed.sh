#!/bin/sh
# pybreaker: a listener that raises keeps the circuit closed, for ever.
#
# Thirty calls fail, fail_max is 3. Without a listener the circuit opens at the third. With one whose
# failure() raises, as one that writes a metric may, it never opens: listeners are told before the
# count is compared with fail_max. The caller gets the listener's exception instead of his own.
#
# With one whose state_change() raises it never opens either: the new state is kept only after the
# listeners were told. Where that is a KeyError, as a missing label is, it becomes
# "ValueError: Unknown state 'open', valid states: closed, open, half-open".
#
# Seen (pybreaker 1.4.1, Python 3.11):
#   no listener: open, 3 of 30 calls went out; the caller got 2 ConnectionError, 28 CircuitBreakerError
#   failure() raises: closed, 30 of 30 calls went out; the caller got 30 KeyError
#   state_change() raises: closed, 30 of 30 calls went out; the caller got 2 ConnectionError, 28 ValueError
#   the last message: Unknown state 'open', valid states: closed, open, half-open
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q pybreaker==1.4.1 || exit 2
cat > circuits.py << 'END'
import collections, sys
from importlib.metadata import version

import pybreaker

print("pybreaker", version("pybreaker"))

class Raises(pybreaker.CircuitBreakerListener):
    def failure(self, cb, exc):
        raise KeyError("a label of the metric")

class RaisesOnChange(pybreaker.CircuitBreakerListener):
    def state_change(self, cb, old, new):
        if new.name == "open":
            raise KeyError("a label of the metric")

def fail(calls):
    calls.append(1)
    raise ConnectionError("no answer")

def thirty(*listeners):
    circuit, calls, got = pybreaker.CircuitBreaker(3, listeners=listeners), [], collections.Counter()
    for _ in range(30):
        try:
            circuit.call(fail, calls)
        except Exception as error:
            got[type(error).__name__], message = got[type(error).__name__] + 1, str(error)
    told = ", ".join(f"{count} {name}" for name, count in got.items())
    return f"{circuit.current_state}, {len(calls)} of 30 calls went out; the caller got {told}", message

seen = {name: thirty(*listeners) for name, listeners in {
    "no listener": (), "failure() raises": (Raises(),), "state_change() raises": (RaisesOnChange(),)
}.items()}
for name, (line, message) in seen.items():
    print(f"  {name}: {line}")
print("  the last message:", message)
sys.exit([line for line, _ in seen.values()] != [
    "open, 3 of 30 calls went out; the caller got 2 ConnectionError, 28 CircuitBreakerError",
    "closed, 30 of 30 calls went out; the caller got 30 KeyError",
    "closed, 30 of 30 calls went out; the caller got 2 ConnectionError, 28 ValueError",
] or "Unknown state 'open', valid states: closed, open" not in message)
END
venv/bin/python circuits.py || { echo "This has changed."; exit 1; }
