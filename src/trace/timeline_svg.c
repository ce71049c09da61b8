/* SPDX-License-Identifier: Apache-2.0 */
/* The timeline as a chart: a bar for each step, on a common axis, as systemd-analyze plot has it.
 */
#include "trace/timeline_internal.h"

#define WIDTH	   1000
#define LEFT	   20
#define RIGHT	   20
#define TOP	   56
#define ROW	   22
#define TEXT_WIDTH 330 /* room for the text of a bar beside it */

static const char style[] =
	"<style>\n"
	"svg{font:13px system-ui,sans-serif;background:#fff;--ink:#1a1a1a;--line:#d8d8d8;"
	"--monitor:#3b6fb6;--guest:#c2691c}\n"
	"@media(prefers-color-scheme:dark){svg{background:#16181c;--ink:#e6e6e6;--line:#3a3d44;"
	"--monitor:#7fb0ee;--guest:#f0a35e}}\n"
	"text{fill:var(--ink)}line{stroke:var(--line)}.m{fill:var(--monitor)}.g{fill:var(--guest)}"
	".t{font-size:15px;font-weight:600}\n"
	"</style>\n";

/* A round distance between grid lines for @all_ms: 1, 2 or 5 times a power of ten. */
static double grid_ms(double all_ms)
{
	double step = 0.001;

	for (;;) {
		if (all_ms / step <= 10)
			return step;
		if (all_ms / (step * 2) <= 10)
			return step * 2;
		if (all_ms / (step * 5) <= 10)
			return step * 5;
		step *= 10;
	}
}

static void grid_svg(struct timeline_out *out, double all_ms, double scale, size_t rows)
{
	double step = grid_ms(all_ms);
	size_t bottom = TOP + rows * ROW;

	/* Counted, so that rounding cannot add up. */
	for (unsigned i = 0; i * step <= all_ms; i++) {
		double x = LEFT + i * step * scale;

		timeline_putf(out,
			"<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%zu\"/>"
			"<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
			x, x, TOP - 6, bottom, x, TOP - 12, i * step);
	}
}

/* One step, from @before to @row: its bar, and its text where there is room for it. */
static void row_svg(struct timeline_out *out, const struct timeline_row *row, uint64_t before_ns,
	uint64_t start_ns, double scale, size_t index, bool guest)
{
	double from = LEFT + (double)(before_ns - start_ns) / 1e6 * scale;
	double to = LEFT + (double)(row->ns - start_ns) / 1e6 * scale;
	bool inside = to > WIDTH - RIGHT - TEXT_WIDTH;
	double y = (double)TOP + (double)index * ROW;

	timeline_putf(out,
		"<rect class=\"%c\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>"
		"<text x=\"%.1f\" y=\"%.1f\"%s>%s  %.3f ms (+%.3f)</text>\n",
		guest ? 'g' : 'm', from, y + 3, to - from > 1 ? to - from : 1, ROW - 6,
		inside ? from - 6 : to + 6, y + ROW - 7, inside ? " text-anchor=\"end\"" : "",
		row->text ? row->text : row->room, (double)(row->ns - start_ns) / 1e6,
		(double)(row->ns - before_ns) / 1e6);
}

int timeline_svg(const struct timeline *tl, int fd)
{
	struct timeline_row rows[TIMELINE_ROWS_MAX];
	uint64_t start = tl->ns[MARK_EXEC];
	size_t count = timeline_rows(tl, rows);
	struct timeline_out out = {0};
	double all_ms, scale;

	all_ms = count ? (double)(rows[count - 1].ns - start) / 1e6 : 0;
	if (all_ms < 0.001)
		all_ms = 0.001;
	scale = (WIDTH - LEFT - RIGHT) / all_ms;
	timeline_putf(&out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %zu\" role=\"img\">\n"
		"<title>kvick run: %.3f ms</title>\n",
		WIDTH, TOP + count * ROW + 10, all_ms);
	timeline_put(&out, style);
	timeline_putf(&out,
		"<text class=\"t\" x=\"%d\" y=\"22\">kvick run, ms since exec: "
		"<tspan class=\"m\">the monitor</tspan> and <tspan class=\"g\">the guest</tspan>"
		"</text>\n",
		LEFT);
	grid_svg(&out, all_ms, scale, count);
	for (size_t i = 1; i < count; i++)
		row_svg(&out, &rows[i], rows[i - 1].ns, start, scale, i - 1,
			tl->ns[MARK_FIRST_ENTRY] && rows[i].ns > tl->ns[MARK_FIRST_ENTRY] &&
				(!tl->ns[MARK_SHUTDOWN] || rows[i].ns <= tl->ns[MARK_SHUTDOWN]));
	timeline_put(&out, "</svg>\n");
	return timeline_put_end(&out, fd);
}
