/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One VM's pages between the guest, the kernel, the agent and a daemon that may die at any point:
 * rules T1, T3, T4, T5, ownership and the order of writes of docs/design.md. Every statement of a
 * daemon process is one system call or one access to shared memory; a crash may come between any
 * two. README.md beside this file says what is modelled and what is not; run.py holds the
 * configurations.
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search find a wrong read or a
 * guest thread that sleeps for ever.
 */
#include "tables.pml"
#include "state.pml"
#include "guest.pml"
#include "fill.pml"
#include "fold.pml"

/* Counts from the words, each page looked at under ownership (here: all at once). What no word
 * names is free. */
inline recount() {
  i = 0;
  do
  :: i < CONTENTS -> refs[i] = 0; i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < PAGES ->
    if
    :: NAMES(tag[i]) -> refs[named[i]]++
    :: else
    fi;
    i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < CONTENTS ->
    if
    :: refs[i] == 0 -> content_state[i] = FREE; content[i] = JUNK
    :: else
    fi;
    i++
  :: else -> break
  od;
  known = 1
}

/* Start: attach anew or take everything from the keeper, serve, wake what the last daemon left
 * asleep, rebuild the counts, hand over. */
proctype main() {
end:
  do
  :: d_step { boot -> boot = 0 };
    if
    :: d_step {
        !kept -> /* nothing to be found: new tables */
        i = 0;
        do
        :: i < PAGES -> tag[i] = TAG_none; named[i] = 0; discard[i] = 0; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < CONTENTS -> content_state[i] = FREE; content[i] = JUNK; i++
        :: else -> break
        od
      }
    :: kept
    fi;
    up = 1;
#ifndef NO_RECOVERY_WAKE
    d_step {
      wake(0);
#if PAGES > 1
      wake(1)
#endif
    };
#endif
    d_step {
ALL_IDLE -> recount()
    };
    kept = 1
  od
}

/* SIGKILL: every process of the daemon is as it was born, whatever it was doing, in one step. */
c_decl {
static unsigned char born[VECTORSZ];
}

proctype crash() {
end:
  do
  :: d_step {
      crashes_left > 0 ->
      crashes_left--;
      c_code { memcpy(pptr(1), born, (char *)pptr(DAEMONS + 1) - (char *)pptr(1)); };
      i = 0;
      do
      :: i < PAGES -> owner[i] = OWN_idle; contended[i] = 0; i++
      :: else -> break
      od;
      i = 0;
      do
      :: i < DAEMONS -> in_fill[i] = 0; awaited[i] = 0; i++
      :: else -> break
      od;
      i = 0;
      do
      :: i < CONTENTS -> refs[i] = 0; i++
      :: else -> break
      od;
      up = 0;
      known = 0;
      boot = 1
    }
  od
}

init {
  atomic {
    /* A thread that sleeps for ever must be seen although a later crash would have woken it. */
    if
    :: crashes_left = 0
#if CRASHES > 0
    :: crashes_left = 1
#endif
#if CRASHES > 1
    :: crashes_left = 2
#endif
    fi;
    i = 0;
    do
    :: i < CONTENTS -> content[i] = JUNK; i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < PAGES -> resident[i] = 1; value[i] = 2; allowed[i] = 4; i++
    :: else -> break
    od;
#ifdef BORN_FOLDED
    resident[0] = 0; value[0] = 0; tag[0] = TAG_folded;
    content_state[0] = LIVE; content[0] = 2; refs[0] = 1;
#else
    if
    :: true
    :: tag[0] = TAG_observed
    fi;
#endif
    i = 0;
    row = 0;
    run main();
    run folder(0);
#if FOLDERS > 1
    run folder(1);
#endif
    run handler(HANDLER0);
#if HANDLERS > 1
    run handler(HANDLER0 + 1);
#endif
#if UNFOLDS > 0
    run unfolder();
#endif
#if DISCARDS > 0
    run agent();
#endif
#if CRASHES > 0
    run crash();
#endif
    run guest(0);
#if GUESTS > 1
    run guest(1);
#endif
    c_code { memcpy(born, pptr(1), (char *)pptr(DAEMONS + 1) - (char *)pptr(1)); }
  }
}
