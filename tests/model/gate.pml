/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate (src/guest/gate.hpp, src/agent/gate.c): the agent holds hazards back, looks at the facts
 * open the gate, runs let pages leave, and an unfold closes it for good. Every statement is one
 * access to memory that others see.
 *
 * Asserted: no page leaves while a hazard is there, or after an unfold has found the gate closed
 * and drained. Nobody waits for ever.
 * Not covered: what the facts are, which mode the gate is open in, an agent or a daemon that dies
 * (tests/kernel/death_test.cpp), holds that are given up, weak memory order (the shared words are
 * sequentially consistent in the code too).
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml. Two checks of the code are a second line; their removal alone is not refuted:
 * a run that looks at `pending` (NO_PENDING; the sequence tells it as well), and one of the two
 * looks of a run that raised `runs_active` before the first (NO_SECOND_LOOK).
 */
#ifndef HAZARDS
#define HAZARDS 2
#endif
#ifndef LOOKS
#define LOOKS 2
#endif
#ifndef LOOKERS
#define LOOKERS 1
#endif
#ifndef RUNS
#define RUNS 2
#endif

/* Shared with the agent. */
byte sequence, pending, runs_active;
bit hazard; /* what would lose data when a page left now */

/* The daemon's: one word of the code, read and changed at once. */
bit open;
byte open_at, epoch;

bit unfolding, all_back;

inline close_gate() { d_step { open = 0; epoch++ } }

proctype agent() {
  byte i = 0;
  do
  :: i == HAZARDS -> break
  :: i < HAZARDS ->
    pending++;
    sequence++;
#ifndef NO_WAIT_FOR_RUNS
    runs_active == 0;
#endif
    hazard = 1;
    sequence++;
    pending--;
    if
    :: hazard = 0 /* it ends; the next look may find nothing */
    :: i == HAZARDS - 1 /* or never */
    fi;
    i++
  od
}

proctype looker() {
  byte i = 0, seen_epoch, seen_sequence;
  bit found, wanted;
  do
  :: i == LOOKS -> break
  :: i < LOOKS ->
#ifdef NO_SEQUENCE_FIRST
    found = hazard || pending != 0;
    seen_epoch = epoch;
    seen_sequence = sequence;
#else
    seen_epoch = epoch;
    seen_sequence = sequence;
    found = pending != 0;
    found = found || hazard;
#endif
    wanted = !unfolding;
    if
    :: found || !wanted -> close_gate()
    :: else ->
      d_step {
        if
#ifndef NO_EPOCH
        :: epoch != seen_epoch /* void: it was closed meanwhile */
#endif
        :: else -> open = 1; open_at = seen_sequence
        fi
      }
    fi;
    i++
  od;
  i = 0; seen_epoch = 0; seen_sequence = 0
}

/* Gate::Pass::holds(): three loads. */
inline ask(answer) {
  answer = open && open_at == at && epoch == at_epoch && was_open;
#ifndef NO_PENDING
  answer = answer && pending == 0;
#endif
#ifndef NO_SEQUENCE
  answer = answer && sequence == at
#endif
}

proctype folder() {
  byte i = 0, at, at_epoch;
  bit was_open, good;
  do
  :: i == RUNS -> break
  :: i < RUNS ->
#ifndef NO_RAISE_FIRST
    runs_active++;
#endif
    d_step { was_open = open; at = open_at; at_epoch = epoch };
    /* the guard */
    ask(good);
#ifdef NO_RAISE_FIRST
    runs_active++;
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
        assert(!all_back);
        skip; /* the punch */
        assert(!hazard);
        assert(!all_back)
      :: else
      fi
    :: else
    fi;
    runs_active--;
    i++
  od
}

proctype unfolder() {
  unfolding = 1;
  close_gate();
#ifndef NO_DRAIN
  runs_active == 0;
#endif
  all_back = 1
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
