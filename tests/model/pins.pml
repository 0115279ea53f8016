/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page at the gate, and the kernel's counts of its frame (src/sys/bpf/pin_test.bpf.c,
 * docs/design.md, Why a quiet page has no write in flight). A device pins the page, writes to its
 * frame at any later time, and lets go. The kernel takes the page from the page table; it moves it,
 * or puts it back. QEMU forgets it. A vCPU reads and writes. A run guards the page, asks, reads it,
 * and punches. Every statement is one access to memory that others see, or what one lock covers.
 *
 * Asserted: no write is lost. It goes to the frame that the file has for the page, and none comes
 * between the run's pread and its punch. Nobody waits for ever.
 * Not covered: who may own the page meanwhile (page.pml), a second process that maps the RAM file
 * (the facts exclude it), large folios, weak memory order (the kernel changes counts and page table
 * entries by locked instructions, and x86 keeps the order of loads).
 *
 * A pin counts as one reference here (FOLL_GET). One of FOLL_PIN counts as 1024, for which nothing
 * else can be mistaken.
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml. The program's further looks are a second line, and not in here: at the frame's
 * file and index, and again at the entry of the page cache.
 */
#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef PINS
#define PINS 1
#endif
#ifndef STEPS /* of the vCPU */
#define STEPS 1
#endif
#ifndef MOVES
#define MOVES 1
#endif
#ifndef FORGETS
#define FORGETS 1
#endif
#ifndef RUNS
#define RUNS 1
#endif

/* The two frames that the page may be in; 0 is none. */
#define OTHER(f) (3 - (f))
byte refs[3], maps[3];

byte entry = 1; /* of the page cache */
byte pte = 1;   /* QEMU's page table entry, one word: the frame, and whether it may be written to */
bit writable = 1;
byte tlb;       /* a writable entry that a vCPU's CPU remembers */
bit guarded;    /* in the entry, or in the marker that is left where there is none */
bit folio_lock;
bit unread;     /* bytes came since the run's pread */
bit gone;       /* punched */

/* What the page table's lock covers is one step. The reference of an entry is there before the
 * entry counts as a mapping, and goes after it. */
inline enter() { /* REQUIRES: folio_lock, and a reference for the entry */
  if
  :: pte == 0 -> pte = entry; maps[entry]++
  :: else -> refs[entry]--
  fi;
  writable = !guarded
}
inline leave(f) {
  f = pte;
  if
  :: f != 0 -> pte = 0; writable = 0; maps[f]--
  :: else
  fi
}

/* A page fault; one of a write waits at the guard. */
inline fault(is_write) {
  d_step {
    !folio_lock && (gone || !is_write || !guarded) ->
    if
    :: !gone -> folio_lock = 1; refs[entry]++
    :: else /* the hole's own fault is not of this model */
    fi
  };
  d_step {
    if
    :: !gone -> enter(); folio_lock = 0
    :: else
    fi
  }
}

proctype device() {
  byte i, frame;
  do
  :: i == PINS || gone -> break
  :: i < PINS && !gone ->
    i++;
    if
    :: d_step { writable -> frame = pte }; /* GUP-fast: without locks */
#ifdef NO_GUP_ORDER
      d_step {
        if
        :: pte != frame || !writable -> frame = 0
        :: else
        fi
      };
#endif
      d_step {
        if
        :: refs[frame] != 0 -> refs[frame]++
        :: else -> frame = 0 /* never of a free frame */
        fi
      };
#if !defined(NO_GUP_RECHECK) && !defined(NO_GUP_ORDER)
      if
      :: d_step { frame != 0 && (pte != frame || !writable) }; d_step { refs[frame]--; frame = 0 }
      :: d_step { frame == 0 || (pte == frame && writable) }
      fi
#endif
    :: true -> /* the slow way: with the page table's lock, after a fault where it needs one */
      do
      :: gone -> break
      :: d_step { writable -> frame = pte; refs[frame]++ }; break
      :: !writable && !gone -> fault(1)
      od
    fi;
    atomic {
      if
      :: frame != 0 -> assert(entry == frame); unread = 1
      :: else
      fi
    };
    atomic {
      if
      :: frame != 0 -> refs[frame]--; frame = 0
      :: else
      fi
    }
  od;
  i = 0
}

proctype vcpu() {
  byte i;
  do
  :: i == STEPS || gone -> break
  :: i < STEPS && !gone ->
    i++;
    if
    :: pte == 0 -> fault(0) /* a read */
    :: true ->
      do /* a write */
      :: gone -> break
      :: d_step { tlb != 0 -> assert(entry == tlb); unread = 1 }; break
      :: d_step { tlb == 0 && writable -> tlb = pte }
      :: tlb == 0 && !writable && !gone -> fault(1)
      od
    fi
  od;
  i = 0
}

/* Reclaim or compaction: takes a reference of its own, takes the page from the page table, and
 * moves it if nothing else holds it. If something does, the page is put back as it is, in the page
 * table again or not. */
proctype kernel() {
  byte i, frame, unmapped;
  do
  :: i == MOVES || gone -> break
  :: d_step { i < MOVES && !gone && !folio_lock ->
      folio_lock = 1; i++;
      frame = entry; refs[frame]++
    };
    d_step { leave(unmapped) };
    tlb = 0; /* the flush may be late */
    d_step {
      if
      :: unmapped != 0 -> refs[frame]--
      :: else
      fi
    };
    if
    :: d_step { refs[frame] == 2 && refs[OTHER(frame)] == 0 ->
        refs[frame] = 0;
        entry = OTHER(frame);
        refs[entry] = 2
      };
      if
      :: d_step { refs[frame] = 1; frame = entry } /* the old frame is another's */
      :: frame = entry
      fi
    /* Swap: the count is compared, and not set to 0. Then the page moves. */
#ifdef NO_SWAP_COUNT
    :: d_step { refs[OTHER(frame)] == 0 };
#else
    :: d_step { refs[frame] == 2 && refs[OTHER(frame)] == 0 };
#endif
#ifdef NO_SWAP_LOCK
      folio_lock = 0;
#endif
      d_step {
        refs[frame] = refs[frame] - 2;
        entry = OTHER(frame);
        refs[entry] = 2;
        frame = entry
      }
    :: true
    fi;
    if
    :: unmapped != 0 ->
      refs[frame]++;
#ifdef NO_GUARD_KEPT
      d_step { enter(); writable = 1; unmapped = 0 }
#else
      d_step { enter(); unmapped = 0 }
#endif
    :: unmapped = 0
    fi;
    d_step { refs[frame]--; frame = 0; folio_lock = 0 }
  od;
  i = 0
}

proctype forgetter() {
  byte i, frame;
  do
  :: i == FORGETS || gone -> break
  :: i < FORGETS && !gone ->
    i++;
    d_step { leave(frame); tlb = 0 };
    d_step {
      if
      :: frame != 0 -> refs[frame]--; frame = 0
      :: else
      fi
    }
  od;
  i = 0
}

/* The program: do the page cache and at most one page table entry hold the frame alone? */
byte asked, counted_refs, counted_maps;
inline judge(maps_again) {
  d_step {
    quiet = counted_refs == 1 + counted_maps && counted_maps <= 1 && counted_maps == maps_again;
    asked = 0; counted_refs = 0; counted_maps = 0
  }
}
inline ask() {
  asked = entry;
#ifndef NO_ONE_LOAD
  d_step { counted_refs = refs[asked]; counted_maps = maps[asked] };
  judge(counted_maps)
#elif NO_ONE_LOAD == 1 /* references, mappings */
  counted_refs = refs[asked];
  counted_maps = maps[asked];
  judge(counted_maps)
#elif NO_ONE_LOAD == 2 /* mappings, references */
  counted_maps = maps[asked];
  counted_refs = refs[asked];
  judge(counted_maps)
#else /* mappings, references, mappings */
  counted_maps = maps[asked];
  counted_refs = refs[asked];
  judge(maps[asked])
#endif
}

proctype folder() {
  byte i;
  bit quiet;
  do
  :: i == RUNS || gone -> break
  :: i < RUNS && !gone ->
    i++;
#ifdef NO_GUARD_FIRST
    ask();
#endif
    d_step { guarded = 1; writable = 0 };
#ifndef NO_FLUSH
    tlb = 0;
#endif
#ifdef NO_GATE
    quiet = 1;
#elif !defined(NO_GUARD_FIRST) && !defined(NO_ASK_BEFORE_READ)
    ask();
#endif
    unread = 0; /* pread */
#ifdef NO_ASK_BEFORE_READ
    ask();
#endif
    if
    :: d_step { quiet && !folio_lock -> /* the punch */
        assert(!unread);
        quiet = 0; entry = 0; pte = 0; writable = 0; tlb = 0; gone = 1
      }
    :: d_step { !quiet -> guarded = 0; writable = pte != 0 } /* undone; a later run asks again */
    fi
  od;
  i = 0
}

init {
  byte n;
  atomic {
    refs[1] = 2;
    maps[1] = 1;
    run folder();
    run vcpu();
    run kernel();
    run forgetter();
    do
    :: n < DEVICES -> run device(); n++
    :: n == DEVICES -> break
    od
  }
}
