/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A private copy of a page, and the kernel's counts of its frame (src/sys/bpf/private_pins.bpf.c).
 * One page table entry maps the frame. A device holds a plain reference (FOLL_GET) from before the
 * guard, and lets go at any time. The kernel takes the frame into the swap cache, which holds a
 * reference, and out of it. The program asks whether anybody else holds the frame. Every statement
 * is one access to memory that others see.
 *
 * Asserted: a frame that is called quiet is not held by the device.
 * Not covered: the page table (the program looks at the entry again), and pins of FOLL_PIN, which
 * count as 1024. A frame that comes back into the swap cache gets another place in it: the same one
 * would have to be given up and given out again between two loads.
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail.
 */
#ifndef SWAPS /* times that the frame is taken into the swap cache, or out of it */
#define SWAPS 4
#endif
#ifndef QUESTIONS
#define QUESTIONS 2
#endif

byte refs = 2; /* the page table entry's, and the device's */
byte place;    /* in the swap cache, with the flag PG_swapcache; 0: in none */
bit held = 1;  /* by the device */

proctype device() {
  d_step { held = 0; refs-- }
}

/* Whoever changes the swap cache has the frame's lock. The cache's reference is there before the
 * frame has a place, and goes after the place. */
proctype kernel() {
  byte i;
  do
  :: i == SWAPS -> break
  :: i < SWAPS ->
    i++;
    if
    :: place == 0 -> refs++; place = i
    :: place != 0 -> place = 0; refs--
    fi
  od;
  i = 0
}

proctype program() {
  byte i, before, counted, after;
  bit quiet;
  do
  :: i == QUESTIONS -> break
  :: i < QUESTIONS ->
    i++;
#ifndef NO_PLACE_BEFORE
    before = place;
#endif
    counted = refs;
#ifndef NO_PLACE_AFTER
    after = place;
#else
    after = before;
#endif
    d_step {
#ifdef NO_PLACE_BEFORE
      before = after;
#endif
#ifdef NO_PLACE /* the flag alone */
      quiet = (before != 0) == (after != 0) && counted == 1 + (before != 0);
#else
      quiet = before == after && counted == 1 + (before != 0);
#endif
      before = 0; counted = 0; after = 0
    };
    if
    :: quiet -> assert(!held)
    :: !quiet
    fi;
    quiet = 0
  od;
  i = 0
}

init {
  atomic {
    run device();
    run kernel();
    run program()
  }
}
