/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_CHART_H
#define KV_CLI_BENCH_CHART_H

#include <stdio.h>

/*
 * Charts of the report's page, as SVG inside a <figure>. They are as wide as a phone and keep the
 * size of their text there; colours are the page's classes a to d.
 */

/* A bar of a waterfall, or a slice of a pie. */
struct bench_bar {
	char name[64];
	double from; /* where it begins; a pie has no use for it */
	double value;
	char colour; /* 'a' to 'd' */
};

#define BENCH_GROUP_BARS 3

/* Bars that belong together: what @name says, by several subjects. 0: no such bar. */
struct bench_group {
	char name[64];
	double values[BENCH_GROUP_BARS];
};

/* Write @text so that it cannot become markup. NULL is nothing. */
void bench_escape(FILE *f, const char *text);

/* Bars one below the other, each where it begins. @what: the caption, markup. */
void bench_waterfall(
	FILE *f, const struct bench_bar *list, unsigned count, const char *unit, const char *what);

/* Groups of bars that begin at 0. @legend: what the bars of a group are, NULL behind the last. */
void bench_groups(FILE *f, const struct bench_group *list, unsigned count,
	const char *const legend[BENCH_GROUP_BARS], const char *unit, const char *what);

/* A pie, with its slices' names, values and shares beside it. */
void bench_pie(
	FILE *f, const struct bench_bar *list, unsigned count, const char *unit, const char *what);

/* A point of two curves: what stands below the axis, and the heights. */
struct bench_point {
	char name[24];
	double values[2];
};

/* Two curves over evenly spaced points, from 0 up. @caption is text, not markup. */
void bench_curves(FILE *f, const struct bench_point *list, unsigned count,
	const char *const legend[2], const char *unit, const char *what, const char *caption);

#endif
