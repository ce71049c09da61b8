/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_chart.h"

#include <math.h>

#include "base/num.h"

/* All in the chart's own units, which are pixels on a phone. */
#define WIDTH	   380
#define VALUE_ROOM 80 /* behind a bar, for its value */
#define LINE	   18 /* of text */
#define BAR	   12

void bench_escape(FILE *f, const char *text)
{
	for (; text && *text; text++) {
		if (*text == '<')
			fputs("&lt;", f);
		else if (*text == '>')
			fputs("&gt;", f);
		else if (*text == '&')
			fputs("&amp;", f);
		else if (*text == '"')
			fputs("&quot;", f);
		else
			fputc(*text, f);
	}
}

static void chart_begin(FILE *f, unsigned height, const char *what)
{
	fprintf(f, "<figure><svg viewBox=\"0 0 %d %u\" role=\"img\"><title>%s</title>\n", WIDTH,
		height, what);
}

static void chart_end(FILE *f, const char *what)
{
	fprintf(f, "</svg><figcaption>%s</figcaption></figure>\n", what);
}

static void rect(FILE *f, char colour, double x, double y, double width)
{
	/* What takes next to no time is still to be seen. */
	fprintf(f,
		"<rect class=\"%c\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" "
		"rx=\"2\"/>",
		colour, x, y, fmax(width, 1), BAR);
}

void bench_waterfall(
	FILE *f, const struct bench_bar *list, unsigned count, const char *unit, const char *what)
{
	const unsigned step = LINE + BAR + 4;
	double all = 0;

	for (unsigned i = 0; i < count; i++)
		all = fmax(all, list[i].from + list[i].value);
	if (all <= 0)
		return;
	chart_begin(f, count * step + 4, what);
	for (unsigned i = 0; i < count; i++) {
		fprintf(f, "<text x=\"0\" y=\"%u\">", i * step + 13);
		bench_escape(f, list[i].name);
		fprintf(f, "</text><text x=\"%d\" y=\"%u\" text-anchor=\"end\">%.3f %s</text>",
			WIDTH, i * step + 13, list[i].value, unit);
		rect(f, list[i].colour, list[i].from / all * (WIDTH - 1), i * step + LINE,
			list[i].value / all * (WIDTH - 1));
		fputc('\n', f);
	}
	chart_end(f, what);
}

static void legend_write(FILE *f, const char *const *legend, unsigned count)
{
	for (unsigned i = 0; i < count && legend[i]; i++) {
		rect(f, (char)('a' + i), i * 120, 2, BAR);
		fprintf(f, "<text x=\"%u\" y=\"13\">", i * 120 + 18);
		bench_escape(f, legend[i]);
		fprintf(f, "</text>\n");
	}
}

void bench_groups(FILE *f, const struct bench_group *list, unsigned count,
	const char *const legend[BENCH_GROUP_BARS], const char *unit, const char *what)
{
	unsigned y = LINE + 6, height = y;
	double all = 0;

	for (unsigned i = 0; i < count; i++) {
		height += LINE + 6;
		for (int b = 0; b < BENCH_GROUP_BARS; b++) {
			all = fmax(all, list[i].values[b]);
			height += list[i].values[b] > 0 ? BAR + 2 : 0;
		}
	}
	if (all <= 0)
		return;
	chart_begin(f, height, what);
	legend_write(f, legend, BENCH_GROUP_BARS);
	for (unsigned i = 0; i < count; i++) {
		fprintf(f, "<text x=\"0\" y=\"%u\">", y + 13);
		bench_escape(f, list[i].name);
		fprintf(f, "</text>\n");
		y += LINE;
		for (int b = 0; b < BENCH_GROUP_BARS; b++) {
			double width = list[i].values[b] / all * (WIDTH - VALUE_ROOM);

			if (list[i].values[b] <= 0)
				continue;
			rect(f, (char)('a' + b), 0, y, width);
			fprintf(f, "<text class=\"v\" x=\"%.1f\" y=\"%u\">%.2f %s</text>\n",
				fmax(width, 1) + 5, y + BAR - 2, list[i].values[b], unit);
			y += BAR + 2;
		}
		y += 6;
	}
	chart_end(f, what);
}

void bench_pie(
	FILE *f, const struct bench_bar *list, unsigned count, const char *unit, const char *what)
{
	double all = 0, at = -M_PI / 2;

	for (unsigned i = 0; i < count; i++)
		all += list[i].value;
	if (all <= 0)
		return;
	chart_begin(f, 150, what);
	for (unsigned i = 0; i < count; i++) {
		/* An arc of the whole circle would have no length. */
		double turn = fmin(list[i].value / all, 0.9999) * 2 * M_PI, end = at + turn;

		fprintf(f, "<path class=\"%c\" d=\"M75 75L%.2f %.2fA70 70 0 %d 1 %.2f %.2fZ\"/>",
			list[i].colour, 75 + 70 * cos(at), 75 + 70 * sin(at), turn > M_PI,
			75 + 70 * cos(end), 75 + 70 * sin(end));
		rect(f, list[i].colour, 160, 18 + i * 44, BAR);
		fprintf(f, "<text x=\"178\" y=\"%u\">", 29 + i * 44);
		bench_escape(f, list[i].name);
		fprintf(f, "</text><text x=\"178\" y=\"%u\">%.3f %s (%.1f %%)</text>\n",
			45 + i * 44, list[i].value, unit, 100 * list[i].value / all);
		at = end;
	}
	chart_end(f, what);
}

void bench_curves(FILE *f, const struct bench_point *list, unsigned count,
	const char *const legend[2], const char *unit, const char *what, const char *caption)
{
	const double left = 20, wide = WIDTH - 2 * left, bottom = 170, high = 110;
	double top = 0;

	for (unsigned i = 0; i < count; i++)
		top = fmax(top, fmax(list[i].values[0], list[i].values[1]));
	if (top <= 0 || count < 2)
		return;
	chart_begin(f, 192, what);
	legend_write(f, legend, 2);
	fprintf(f,
		"<line x1=\"0\" x2=\"%d\" y1=\"%.0f\" y2=\"%.0f\"/><line x1=\"0\" x2=\"%d\" "
		"y1=\"%.0f\" y2=\"%.0f\"/><text x=\"0\" y=\"%.0f\">%.2f %s</text>\n",
		WIDTH, bottom, bottom, WIDTH, bottom - high, bottom - high, bottom - high - 6, top,
		unit);
	for (int k = 0; k < 2; k++) {
		fprintf(f, "<polyline class=\"l%c\" points=\"", 'a' + k);
		for (unsigned i = 0; i < count; i++)
			fprintf(f, "%.1f,%.1f ", left + i * wide / (count - 1),
				bottom - list[i].values[k] / top * high);
		fprintf(f, "\"/>\n");
	}
	for (unsigned i = 0; i < count; i++) {
		fprintf(f, "<text x=\"%.1f\" y=\"188\" text-anchor=\"middle\">",
			left + i * wide / (count - 1));
		bench_escape(f, list[i].name);
		fprintf(f, "</text>");
	}
	fprintf(f, "</svg><figcaption>%s: ", what);
	bench_escape(f, caption);
	fprintf(f, "</figcaption></figure>\n");
}
