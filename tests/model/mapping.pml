/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One page that the agent maps from the pool and puts back (src/fold/sharing.hpp,
 * src/fold/restoring.hpp, src/agent/core/mapping.h), with the kernel's copy-on-write, QEMU's
 * discards, a device that pins pages, the pool's slot, and a daemon that may be killed at any
 * point. Every statement is one system call or one access to memory that others see.
 *
 * Asserted: every read of the guest gives the last write, or zero after a discard; while a discard
 * is under way, or when a write came during it, either is right. No guest reads a slot that was
 * given to others. No write of a device is lost. No guest thread sleeps for ever. At the end, no
 * slot is held that no page maps, and none is free that a page maps. No page whose word says
 * `clean` is written (T4).
 * Not covered: folding (page.pml), contents that several pages map (the pool counts them), the
 * order of the kernel's own steps inside one system call, an agent that lies, weak memory order.
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml.
 */
#include "tables.pml"

#ifndef STEPS
#define STEPS 2 /* accesses of the guest */
#endif
#ifndef TURNS
#define TURNS 2 /* of the worker: it maps, or puts back */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef DISCARDS
#define DISCARDS 0
#endif
#ifndef FIRST
#define FIRST TAG_none
#endif
#ifndef PINS
#define PINS 0
#endif
#ifndef GUARDED
#define GUARDED 0 /* at first */
#endif

#define JUNK 3 /* bytes of another VM */
#define SAME 1 /* the bytes of the content in question; the guest writes these or 2 */
#define AWAKE 0
#define QUEUED 1
#define TAKEN 2
#define MAP 1
#define RESTORE 2

/* The kernel, for the guest's address: the pool or the RAM file, a private copy, a guard. */
bit pool;
bit private;
byte private_value;
bit guard = GUARDED;
/* The RAM file. */
bit resident = 1;
byte ram_value = SAME;
/* The slot. What is freed is somebody else's at once. */
bit slot;
byte slot_value = JUNK;

byte asleep; /* the guest's thread */
bit pinned, pinned_private, pinned_stale;

/* Outlives the daemon. */
byte tag = FIRST;
bit discard, discarding;
byte session = 1;

/* The agent. */
bit busy; /* its lock */
byte queue_act, queue_by;
byte left_act, left_by; /* of a socket whose daemon is dead */
byte fence, fenced;     /* asked for, and answered, by generation */

/* Dies with the daemon. */
byte owner;
bit contended;
bit up, known, boot = 1;
byte generation = 1;
byte answer; /* 0: none yet */
byte crashes_left;

/* What the guest must see. */
byte truth = SAME;
bit or_zero, wrote;

hidden byte row;

#ifdef NO_BUG_CHECKS
#define BUG_UNLESS(x) skip
#else
#define BUG_UNLESS(x) assert(x)
#endif

inline set_tag(to, by) {
  TAG_ROW(tag, to, by, row);
  BUG_UNLESS(row != 255);
  c_code { if (row != 255) tag_rows[row].used++; };
  tag = to
}
inline set_owner(to) {
  OWNER_ROW(owner, to, row);
  BUG_UNLESS(row != 255);
  c_code { if (row != 255) owner_rows[row].used++; };
  owner = to
}

/* mmap replaces the mapping with everything that hangs on it. */
inline map_pool() {
  d_step {
    if
    :: pinned && !pinned_private -> pinned_stale = 1
    :: else
    fi;
    pool = 1; private = 0; private_value = 0; guard = 0
  }
}
inline map_ram() {
  d_step {
    if
    :: pinned && pinned_private -> pinned_stale = 1
    :: else
    fi;
    pool = 0; private = 0; private_value = 0; guard = 0
  }
}
inline punch() {
  d_step {
    if
    :: pinned && !pinned_private -> pinned_stale = 1
    :: else
    fi;
    resident = 0; ram_value = 0
  }
}
inline free_slot() { d_step { slot = 0; slot_value = JUNK } }

/* ---- the guest ---- */

inline store(v) { /* the access itself, where nothing stops it */
  if
  :: pool -> private = 1; private_value = v
  :: !pool ->
#if DISCARDS == 0
    /* T4; a write to a hole that a discard left is an event, which is not modelled. */
    assert(tag != TAG_clean);
#endif
    resident = 1; ram_value = v
  fi;
  truth = v;
  if
  :: discarding -> wrote = 1; or_zero = 1
  :: else -> or_zero = 0
  fi
}

proctype guest() {
  byte n, v;
  do
  :: n == STEPS -> break
  :: n < STEPS && asleep == AWAKE ->
    if
    :: d_step { /* a read */
        if
        :: pool && private -> v = private_value
        :: pool && !private -> v = slot_value
        :: !pool && resident -> v = ram_value
        :: !pool && !resident -> v = 0
        fi;
        assert(v == truth || (v == 0 && or_zero));
        if
        :: or_zero && !discarding -> truth = v; or_zero = 0
        :: else
        fi;
        v = 0; n++
      }
    :: d_step { guard -> asleep = QUEUED } /* a write */
    :: d_step { !guard -> store(SAME); n++ }
    :: d_step { !guard -> store(2); n++ }
    fi
  od;
  n = 0
}

#if PINS > 0
/* Pins the frame as a write of the guest would meet it, writes to it at any later time, lets go. */
proctype device() {
  byte n;
  do
  :: n == PINS -> break
  :: n < PINS ->
end:
    d_step { !guard && (private || (!pool && resident)) ->
      pinned = 1; pinned_private = pool; pinned_stale = 0; n++
    };
    d_step {
      assert(!pinned_stale);
      store(2)
    };
    d_step { pinned = 0; pinned_private = 0; pinned_stale = 0 }
  od;
  n = 0
}
#endif

/* ---- the agent ---- */

inline lock() {
#ifdef NO_LOCK
  skip
#else
  d_step { !busy -> busy = 1 }
#endif
}
inline unlock() { busy = 0 }

proctype agent() {
  byte act, by, copy;
end:
  do
  :: d_step { left_act != 0 -> act = left_act; by = left_by; left_act = 0; left_by = 0 };
    goto carry_out
  :: d_step { queue_act != 0 -> act = queue_act; by = queue_by; queue_act = 0; queue_by = 0 };
    goto carry_out
  :: d_step { fence != 0 -> fenced = fence; fence = 0 }; /* no command is under way */
    goto next;
carry_out:
#ifndef NO_GENERATION
    if
    :: by != session -> goto next /* dropped */
    :: by == session
    fi;
#endif
    lock();
    if
    :: act == MAP ->
#ifndef NO_BIT_CHECK
      if
      :: discard -> goto answered
      :: !discard
      fi;
#endif
      if
#ifdef MAY_FAIL
      :: goto answered
#endif
      :: map_pool()
      fi;
#ifndef NO_AGENT_PUNCH
      if
#ifdef MAY_FAIL
      :: true
#endif
      :: punch()
      fi
#endif
    :: act == RESTORE ->
      if
      :: pool ->
        d_step {
          if
          :: private -> copy = private_value
          :: else -> copy = slot_value
          fi
        };
        d_step { resident = 1; ram_value = copy; copy = 0 }; /* pwrite */
        if
#ifdef MAY_FAIL
        :: true
#endif
        :: map_ram()
        fi
      :: !pool /* a discard was faster */
      fi
    fi;
answered:
    unlock();
    d_step {
      if
      :: by == generation && up -> answer = 1
      :: else
      fi
    };
next:
    skip;
    d_step { act = 0; by = 0 }
  od
}

#if DISCARDS > 0
proctype qemu() {
  byte n;
  do
  :: n == DISCARDS -> break
  :: n < DISCARDS ->
    n++;
    discarding = 1;
    d_step { discard = 1; or_zero = 1; wrote = 0 };
    lock();
#ifndef NO_DROP
    if
    :: pool -> punch(); map_ram()
    :: !pool
    fi;
#endif
    unlock();
    punch(); /* the call */
    d_step {
      discarding = 0;
      if
      :: !wrote -> truth = 0; or_zero = 0
      :: wrote
      fi;
      wrote = 0
    }
  od;
  n = 0
}
#endif

#include "mapping_daemon.pml"

#define DAEMONS 3
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
      owner = OWN_idle; contended = 0; up = 0; known = 0; boot = 1; answer = 0;
      generation++;
      if
      :: queue_act != 0 -> left_act = queue_act; left_by = queue_by; queue_act = 0; queue_by = 0
      :: else
      fi;
      fence = 0
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
    run main();
    run worker();
    run handler();
    run agent();
    run guest();
#if PINS > 0
    run device();
#endif
#if DISCARDS > 0
    run qemu();
#endif
#if CRASHES > 0
    run crash();
#endif
    c_code { memcpy(born, pptr(1), (char *)pptr(DAEMONS + 1) - (char *)pptr(1)); }
  }
  /* Nothing is under way any more: the slot is the page's, or nobody's. */
  do
  :: timeout ->
    assert(asleep == AWAKE);
    assert(!pool || slot);
    assert(!slot || tag == TAG_mapped);
    break
  od
}
