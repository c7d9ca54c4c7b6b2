"""All algorithms that golden cases name and tokenred implements."""

from golden import aot, in_llm, tiny

ALGORITHMS = {**aot.ALGORITHMS, **in_llm.ALGORITHMS, **tiny.ALGORITHMS}
