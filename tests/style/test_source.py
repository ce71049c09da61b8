# SPDX-License-Identifier: Apache-2.0
"""The style tests' own eyes: what source.py sees in C text."""

from source import bare, declarations, functions

HEADER = """\
/* SPDX */
#ifndef A
#define A
#define M(x) \\
	f(x)

/* About a struct. */
struct s {
	int (*op)(void *ctx);
};

/* Documented. Returns 0. */
int s_one(struct s *s,
	int b);
void s_two(void);

enum kind s_three(void);

/* Inline. */
static inline int s_four(int a)
{
	return a;
}

extern const char *const s_names[3];
typedef int (*s_fn)(int);
void s_five(int a) __attribute__((format(printf, 1, 2)));

#endif
"""

BODY = """\
static int value; /* } */

static const struct s ops = {
	.op = f,
};

static int
one(int a,
	int b)
{
	char c = '{', *d = "}\\"";
	if (a) {
		b = 1;
	}
	return b;
}

void two(void)
{
}
"""


def test_declarations():
    found = {d.name: d for d in declarations(HEADER)}
    assert list(found) == ["s_one", "s_two", "s_three", "s_four", "s_five"]
    assert "Returns 0" in found["s_one"].comment
    assert found["s_two"].comment == found["s_one"].comment
    assert found["s_three"].comment is None
    assert found["s_four"].inline and not found["s_one"].inline
    assert found["s_five"].comment is None


def test_functions():
    assert list(functions(BODY)) == [("one", 7, 16), ("two", 18, 20)]


def test_bare_keeps_lines_and_drops_quotes():
    text = bare(BODY)
    assert text.count("\n") == BODY.count("\n")
    assert "}" not in text.split("\n")[0]
    assert "'{'" not in text
