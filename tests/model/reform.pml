/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Contents whose bytes move and change their form (src/store/reform) while others read, share, drop
 * and store them, in a daemon that may be killed at any point: the order of writes of
 * docs/store-format.md, readers.hpp, and recovery from the headers. Every statement of a process is
 * one access to memory that others see, or some that nobody can tell apart; a crash may come
 * between any two.
 *
 * Covered: `where` switched by one compare-and-swap; bytes before the switch; readers that count
 * themselves in and out, in two sets; slots and references given up behind them; references pinned
 * by those that need them; contents dropped, stored and shared meanwhile, whose ids and slots are
 * used again; marks of damage; recovery, also of a daemon that died in it, with drops beside it.
 * Not covered: what is in the bytes (a slot holds a page, or nothing right), lengths and slabs, the
 * index (finding and taking is one step, as under its lock; equal contents may be kept twice),
 * counts' limits, damaged headers, groups, two reformers, weak memory order.
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml.
 */
#include "reform_state.pml"
#include "reform_use.pml"
#include "reform_switch.pml"

/* Rebuild::forget */
inline forget(c) {
  d_step {
    if
    :: count[c] == 0 -> count[c] = DEAD; n = 1
    :: else -> n = 0
    fi;
    gone = n; n = 0
  };
  if
  :: gone -> clear(c); id_free[c] = 1; gone = 0
  :: else
  fi
}

/* The words are counted, each under its page's owner; then Contents::finish_recovery. */
proctype main() {
  byte x, y, w, r;
  bit gone;

end:
  do
  :: d_step { boot -> boot = 0; busy++; leaks = 0 };
    x = 0;
    do
    :: x < WORDS ->
      d_step {
        !owned[x] -> counted[x] = 1;
        if
        :: word[x] != NONE -> count[word[x]]++
        :: else
        fi;
        x++
      }
    :: x == WORDS -> break
    od;
    /* Rebuild::count_reference */
    x = 1;
    do
    :: x <= IDS ->
      w = where[x];
      if
      :: READABLE(w) && REFERS(w) ->
        if
        :: count[x] == 0 -> forget(x)
        :: else ->
#ifndef NO_COUNT_DEPENDENTS
          r = reference[x];
          d_step {
            if
            :: READABLE(where[r]) -> assert(!REFERS(where[r]) && count[r] != DEAD);
              count[r]++; dependents[r]++
            :: else -> assert(BAD(where[r]));
              if
              :: where[x] == w -> where[x] = w | 32; marked[x] = 1
              :: else
              fi
            fi;
            r = NONE
          }
#endif
        fi
      :: else
      fi;
      x++
    :: x > IDS -> break
    od;
    /* Rebuild::one */
    do
    :: x > 1 ->
      x--;
      w = where[x];
      if
      :: count[x] == DEAD
      :: count[x] != DEAD ->
#ifdef NO_LEFT_TO_SWEEP
        if
        :: count[x] == 0 -> forget(x)
#else
        if
        :: count[x] == 0 && !(READABLE(w) && REFERS(w)) -> forget(x)
#endif
        :: else -> d_step { assert(VALID(w) && !used[SLOT(w)]); used[SLOT(w)] = 1 }
        fi
      fi
    :: x == 1 -> break
    od;
#ifndef NO_PHASE_FIRST
    phase = SWEEPING;
#endif
    x = IDS;
    do
    :: x > 0 ->
      if
      :: count[x] == 0 -> y = x; release(y, w, r)
      :: else
      fi;
      x--
    :: x == 0 -> break
    od;
    w = 0;
    phase = READY;
    rest()
  od
}

/* SIGKILL: every process of the daemon is as it was born, in one step. */
c_decl {
static unsigned char born[VECTORSZ];
}

proctype crash() {
end:
  do
  :: d_step {
      crashes_left > 0 ->
      crashes_left--;
      c_code { memcpy(pptr(MAIN), born, (char *)pptr(MAIN + DAEMONS) - (char *)pptr(MAIN)); };
      i = 1;
      do
      :: i <= IDS -> count[i] = 0; dependents[i] = 0; id_free[i] = 0; i++
      :: else -> break
      od;
      i = 0;
      do
      :: i < SLOTS -> used[i] = 0; i++
      :: else -> break
      od;
      i = 0;
      do
      :: i < WORDS -> owned[i] = 0; counted[i] = 0; i++
      :: else -> break
      od;
      i = 0;
      turn = 0; inside[0] = 0; inside[1] = 0;
      left_count = 0;
      busy = 0;
      phase = RECOVERING;
      boot = 1
    }
  od
}

init {
  atomic {
    if
    :: crashes_left = 0
#if CRASHES > 0
    :: crashes_left = 1
#endif
#if CRASHES > 1
    :: crashes_left = 2
#endif
    fi;
    /* Two contents, of a word each; the second may refer to the first. */
    phase = READY;
    hash[1] = 1; where[1] = WHERE(0, 0); page[0] = 1; used[0] = 1; count[1] = 1; word[0] = 1;
    truth[0] = 1; counted[0] = 1;
    hash[2] = 2; where[2] = WHERE(1, 0); page[1] = 2; used[1] = 1; count[2] = 1; word[1] = 2;
    truth[1] = 2; counted[1] = 1;
    if
    :: true
    :: where[2] = WHERE(1, 1); base[1] = 1; reference[2] = 1; count[1] = 2; dependents[1] = 1
    fi;
#if IDS > 2
    count[3] = DEAD; id_free[3] = 1;
#endif
#if WORDS > 2
    counted[2] = 1;
#endif
    run main();
    run worker();
#if WORKERS > 1
    run worker();
#endif
    run reformer();
    run crash();
    c_code { memcpy(born, pptr(MAIN), (char *)pptr(MAIN + DAEMONS) - (char *)pptr(MAIN)); }
  }
}
