/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The slots of a pool (src/store/pool): contents move into it and back, pages of guests map slots
 * by commands to the agent, slots are punched and given out again, the daemon is killed and
 * recovers. Pages 0 and 1 name content 0, pages 2 and 3 content 1. There are fewer slots than
 * could be used at once, so slots are used again.
 *
 * Asserted: a slot that a page maps has the bytes of the content that the page names, always.
 * Bytes are written into a hole. Nobody waits for ever.
 * Not covered: how a mapping is made and undone in QEMU, and written pages (mapping.pml); second
 * slots of one content; readers of old places (reform.pml).
 *
 * A rule is removed with -DNO_<rule>; each removal must make the search fail. README.md and run.py
 * as for page.pml.
 */
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef OPS
#define OPS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define PAGES 4
#define CONTENTS 2
#define GONE 255

/* What outlives the daemon: files, page tables, the agent and its socket. */
byte bytes[SLOTS + 1]; /* 0: a hole; else 1 + the content */
byte where[CONTENTS];  /* 0: the arena; else the slot */
byte word[PAGES];      /* 1 + the content; 0: the page has come back */
byte maps[PAGES];      /* the slot; 0: none */
bit command[PAGES];    /* in the socket */
byte slot_of[PAGES], sent_by[PAGES];
byte generation;

/* The daemon's memory. */
mtype = { hole, taken, home, retired, punching };
mtype state[SLOTS + 1];
byte counted[SLOTS + 1]; /* mappings */
byte lease[PAGES];       /* the slot whose mapping is counted for this page */
bit known, moving;
bit busy[PAGES]; /* its owner is at work */
bit dead, quit;
byte living, crashes, ops;

/* Of every page, in one step. */
inline check() {
  assert(maps[0] == 0 || bytes[maps[0]] == word[0]);
  assert(maps[1] == 0 || bytes[maps[1]] == word[1]);
  assert(maps[2] == 0 || bytes[maps[2]] == word[2]);
  assert(maps[3] == 0 || bytes[maps[3]] == word[3])
}

#ifdef NO_MAPPINGS_CHECK
#define UNMAPPED(s) true
#else
#define UNMAPPED(s) (counted[s] == 0)
#endif
#define NAMED(c) ((word[0] == c + 1) + (word[1] == c + 1) + (word[2] == c + 1) + (word[3] == c + 1))

active proctype agent() {
  byte p;
end:
  do
  :: d_step {
      (command[0] || command[1] || command[2] || command[3]);
      p = 0;
      do :: command[p] -> break :: else -> p++ od;
#ifndef NO_GENERATION
      if
      :: sent_by[p] == generation -> maps[p] = slot_of[p]
      :: else
      fi;
#else
      maps[p] = slot_of[p];
#endif
      command[p] = 0; slot_of[p] = 0; sent_by[p] = 0;
      check();
      p = 0
    }
  od
}

inline send(p, s) {
  d_step { slot_of[p] = s; sent_by[p] = generation; command[p] = 1 }
  command[p] == 0 /* answered */
}

inline count(p, s) { d_step { counted[s]++; lease[p] = s } }

/* A worker: maps pages and unmaps them. */
inline share(p, c) {
  atomic { !moving -> moving = 1 }
  if
  :: where[c] == 0 && NAMED(c) >= 2 && known ->
    d_step {
      s = 1;
      do
      :: s > SLOTS -> s = 0; break
      :: s <= SLOTS && state[s] == hole -> state[s] = taken; break
      :: else -> s++
      od
    }
    if
    :: s != 0 ->
      d_step { assert(bytes[s] == 0); bytes[s] = c + 1; check() }
      state[s] = home;
      where[c] = s
    :: else
    fi
  :: else
  fi;
  s = where[c];
  if
  :: s != 0 && s != GONE ->
#ifndef NO_COUNT_FIRST
    count(p, s);
#endif
    moving = 0;
    send(p, s);
#ifdef NO_COUNT_FIRST
    count(p, s);
#endif
  :: else -> moving = 0
  fi
}

proctype worker() {
  byte p, s;
  {
    do
    :: ops < OPS ->
      ops++;
      atomic {
        if
        :: !busy[0] && word[0] != 0 -> p = 0
        :: !busy[1] && word[1] != 0 -> p = 1
        :: !busy[2] && word[2] != 0 -> p = 2
        :: !busy[3] && word[3] != 0 -> p = 3
        :: else -> p = PAGES
        fi;
        if :: p < PAGES -> busy[p] = 1 :: else fi
      }
      if
      :: p == PAGES -> p = 0
      :: p < PAGES && lease[p] == 0 ->
        share(p, word[p] - 1);
        d_step { busy[p] = 0; p = 0; s = 0 }
      :: p < PAGES && lease[p] != 0 ->
#ifdef NO_UNMAP_FIRST
        d_step { counted[lease[p]]--; lease[p] = 0 }
        send(p, 0);
#else
        send(p, 0);
        d_step { counted[lease[p]]--; lease[p] = 0 }
#endif
        d_step { busy[p] = 0; p = 0 }
      fi
    :: ops >= OPS -> break
    od
  } unless { dead };
  living--
}

/* A fault thread: pages that map nothing come back, and a content that no page names goes. */
proctype server() {
  byte p, c;
  {
    do
    :: atomic {
        if
        :: !busy[0] && word[0] != 0 && lease[0] == 0 -> p = 0
        :: !busy[1] && word[1] != 0 && lease[1] == 0 -> p = 1
        :: !busy[2] && word[2] != 0 && lease[2] == 0 -> p = 2
        :: !busy[3] && word[3] != 0 && lease[3] == 0 -> p = 3
        fi;
        busy[p] = 1
      }
      c = word[p] - 1;
      word[p] = 0;
      d_step {
        if
        :: NAMED(c) == 0 && where[c] == 0 -> where[c] = GONE
        :: NAMED(c) == 0 && where[c] != 0 && where[c] != GONE ->
          state[where[c]] = retired;
          where[c] = GONE
        :: else
        fi;
        busy[p] = 0; p = 0; c = 0
      }
    :: quit -> break
    od
  } unless { dead };
  living--
}

/* Housekeeping: contents that are shared no more leave, and retired slots are punched. */
proctype tender() {
  byte s, c;
  {
    do
    :: known ->
      atomic { !moving -> moving = 1 }
      d_step {
        c = 0;
        do
        :: c == CONTENTS -> break
        :: c < CONTENTS ->
          s = where[c];
          if
          :: s != 0 && s != GONE && NAMED(c) < 2 && UNMAPPED(s) && state[s] == home ->
            where[c] = 0;
            state[s] = retired
          :: else
          fi;
          c++
        od;
        c = 0; s = 0
      }
      d_step {
        s = 1;
        do
        :: s > SLOTS -> s = 0; break
        :: s <= SLOTS && state[s] == retired && UNMAPPED(s) -> state[s] = punching; break
        :: else -> s++
        od
      }
      if
      :: s != 0 ->
#ifndef NO_PUNCH
        d_step { bytes[s] = 0; check() }
#endif
        state[s] = hole
      :: else
      fi;
      d_step { moving = 0; s = 0 }
    :: quit -> break
    od
  } unless { dead };
  living--
}

active proctype killer() {
  do
  :: crashes < CRASHES && !quit -> atomic { !dead -> dead = 1; crashes++ }
  :: break
  od
}

inline note(p) {
  if
  :: maps[p] != 0 -> counted[maps[p]]++; lease[p] = maps[p]
  :: else
  fi
}

inline look() {
  d_step {
#ifndef NO_NOTE
    note(0); note(1); note(2); note(3);
#endif
    skip
  }
}

inline recover() {
  d_step {
    s = 0;
    do
    :: s > SLOTS -> break
    :: else -> state[s] = hole; counted[s] = 0; s++
    od;
    p = 0;
    do
    :: p == PAGES -> break
    :: else -> lease[p] = 0; busy[p] = 0; p++
    od;
    known = 0; moving = 0;
    s = 0
  }
#ifdef NO_FENCE_FIRST
  look();
  generation++;
#else
  generation++; /* the fence */
  look();
#endif
  d_step {
    /* A content that no word names is swept. */
    if :: where[0] != 0 && where[0] != GONE && NAMED(0) == 0 -> where[0] = GONE :: else fi;
    if :: where[1] != 0 && where[1] != GONE && NAMED(1) == 0 -> where[1] = GONE :: else fi;
    if :: where[0] != 0 && where[0] != GONE -> state[where[0]] = home :: else fi;
    if :: where[1] != 0 && where[1] != GONE -> state[where[1]] = home :: else fi;
    s = 1;
    do
    :: s > SLOTS -> break
    :: s <= SLOTS && state[s] == hole && (bytes[s] != 0 || counted[s] != 0) ->
      state[s] = retired; s++
    :: else -> s++
    od;
    known = 1;
    s = 0; p = 0
  }
}

active proctype lives() {
  byte p, s;
  word[0] = 1; word[1] = 1; word[2] = 2; word[3] = 2;
  do
  :: recover();
    living = 3;
    run worker(); run server(); run tender();
    if
    :: dead -> living == 0; dead = 0
    :: ops >= OPS -> quit = 1; living == 0; break
    fi
  od
}
