/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate (src/guest/gate.hpp): looks at the facts open it, runs let pages leave, and an unfold
 * closes it for good. Then the agent lets a hazard begin (src/agent/core/hazard.c). Every statement
 * is one access to memory that others see.
 *
 * Asserted: no page leaves after the hazard has begun. Nobody waits for ever.
 * Not covered: what the facts are, device writes in flight (pins.pml), an agent or a daemon that
 * dies (tests/kernel/death_test.cpp), agents that are older than the proof of pages, weak memory
 * order (the words are sequentially consistent in the code too).
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml. One check of the code is a second line; its removal alone is not refuted: one of
 * the two looks of a run that raised `runs` before the first (NO_SECOND_LOOK).
 */
#ifndef LOOKS
#define LOOKS 2
#endif
#ifndef LOOKERS
#define LOOKERS 1
#endif
#ifndef RUNS
#define RUNS 2
#endif

/* The daemon's: one word of the code, read and changed at once. */
bit open;
byte epoch;

byte runs; /* under way */
bit asked, unfolding, answered;
bit hazard; /* what would lose data when a page left now */

inline close_gate() { d_step { open = 0; epoch++ } }

proctype agent() {
  asked = 1;
  answered == 1;
  hazard = 1
}

proctype looker() {
  byte i = 0, seen_epoch;
  bit wanted;
  do
  :: i == LOOKS -> break
  :: i < LOOKS ->
    seen_epoch = epoch;
    wanted = !unfolding;
    if
    :: close_gate() /* a fact stands against folding */
    :: !wanted -> close_gate()
    :: wanted ->
      d_step {
        if
#ifndef NO_EPOCH
        :: epoch != seen_epoch /* void: it was closed meanwhile */
#endif
        :: else -> open = 1
        fi
      }
    fi;
    i++
  od;
  i = 0; seen_epoch = 0
}

/* Gate::Pass::holds() */
inline ask(answer) { answer = open && epoch == at_epoch && was_open }

proctype folder() {
  byte i = 0, at_epoch;
  bit was_open, good;
  do
  :: i == RUNS -> break
  :: i < RUNS ->
#ifndef NO_RAISE_FIRST
    runs++;
#endif
    d_step { was_open = open; at_epoch = epoch };
    /* the guard */
    ask(good);
#ifdef NO_RAISE_FIRST
    runs++;
#endif
    if
    :: good ->
      /* pread; asked again before the commit */
#ifndef NO_SECOND_LOOK
      ask(good);
#endif
      if
      :: good ->
        assert(!hazard);
        skip; /* the punch */
        assert(!hazard)
      :: else
      fi
    :: else
    fi;
    runs--;
    i++
  od
}

proctype unfolder() {
  asked == 1;
  unfolding = 1;
  close_gate();
#ifndef NO_DRAIN
  runs == 0;
#endif
  answered = 1
}

init {
  byte n = 0;
  atomic {
    run agent();
    run unfolder();
    run folder();
    do
    :: n < LOOKERS -> run looker(); n++
    :: n == LOOKERS -> break
    od
  }
}
