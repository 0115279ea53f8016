/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sizes of the model of contents that move, its state, and how contents come to their end. */
#ifndef IDS
#define IDS 3
#endif
#ifndef SLOTS
#define SLOTS 4
#endif
#ifndef WORDS
#define WORDS 2
#endif
#ifndef WORKERS
#define WORKERS 1
#endif
#ifndef OPS
#define OPS 2 /* of all workers together */
#endif
#ifndef SWITCHES
#define SWITCHES 2 /* attempts of the reformer */
#endif
#ifndef LEFT_MAX
#define LEFT_MAX 1 /* switches before one wait for readers */
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef VALUES
#define VALUES 2 /* pages that are stored; with 3, the third is put only */
#endif

#define MAIN 1 /* the first of the daemon's processes */
#define DAEMONS (2 + WORKERS)

/* A `where`, loaded and stored at once: a slot, and how the content is kept there. */
#define SLOT(w) ((w) & 7)
#define REFERS(w) (((w) & 8) != 0)
#define VALID(w) (((w) & 16) != 0)
#define BAD(w) (((w) & 32) != 0)
#define READABLE(w) (VALID(w) && !BAD(w))
#define WHERE(s, refers) ((s) | 16 | (refers << 3))

#define NONE 0  /* no content; ids begin at 1 */
#define JUNK 0  /* bytes that decode to nothing right */
#define DEAD 255
#define LIVE(x) (count[x] != 0 && count[x] != DEAD)

#define RECOVERING 0
#define SWEEPING 1
#define READY 2

/* What outlives the daemon. `base`: the page that the bytes in the slot were encoded against. */
byte where[IDS + 1];
byte hash[IDS + 1];
byte reference[IDS + 1];
byte page[SLOTS];
byte base[SLOTS];
byte word[WORDS];  /* of guests' pages: the content that one names */
byte truth[WORDS]; /* what its guest must read */

/* What dies with it. */
byte phase;
byte count[IDS + 1];
byte dependents[IDS + 1];
bit id_free[IDS + 1];
bit used[SLOTS];
bit owned[WORDS];   /* the page's owner; one at a time */
bit counted[WORDS]; /* recovery has counted the word, or it was written since */
bit turn;
byte inside[2];
byte left_count;
byte busy; /* processes in the middle of something */
bit boot;

byte ops_left = OPS;
byte switches_left = SWITCHES;
byte crashes_left;
bit marked[IDS + 1]; /* a mark was made: it must stay for as long as the content */
bit leaks; /* what a mark took out of use stays until the next start */

hidden byte i;
hidden byte j;
hidden byte n;

/* With nothing under way: what is counted is what is there, and no slot is lost. */
inline check_all() {
  i = 1;
  do
  :: i <= IDS ->
    n = 0;
    j = 0;
    do
    :: j < WORDS -> n = n + (word[j] == i); j++
    :: else -> break
    od;
    j = 1;
    do
    :: j <= IDS -> n = n + (READABLE(where[j]) && REFERS(where[j]) && reference[j] == i); j++
    :: else -> break
    od;
    assert(VALID(where[i]) == LIVE(i));
    assert(id_free[i] == (count[i] == DEAD));
    assert(count[i] == (n == 0 -> DEAD : n));
    i++
  :: else -> break
  od;
  j = 0;
  do
  :: j < SLOTS ->
    n = 0;
    i = 1;
    do
    :: i <= IDS -> n = n + (VALID(where[i]) && SLOT(where[i]) == j); i++
    :: else -> break
    od;
    assert(used[j] == n); /* each slot named once, and none lost */
    j++
  :: else -> break
  od;
  i = 0; j = 0; n = 0
}

inline rest() {
  d_step {
    busy--;
    if
    :: busy == 0 && left_count == 0 && phase == READY && !leaks -> check_all()
    :: else
    fi
  }
}

/* The lowest free one, or SLOTS. */
inline allocate_slot(slot) {
  d_step {
    slot = 0;
    do
    :: slot < SLOTS && used[slot] -> slot++
    :: else -> break
    od;
    if
    :: slot < SLOTS -> used[slot] = 1
    :: else
    fi
  }
}

/* Whoever still reads there reads something else from now on. */
inline free_slot(slot) {
  d_step {
    assert(used[slot]);
    i = 1;
    do
    :: i <= IDS -> assert(!VALID(where[i]) || SLOT(where[i]) != slot); i++
    :: else -> break
    od;
    i = 0;
    used[slot] = 0;
    page[slot] = JUNK;
    base[slot] = JUNK
  }
}

/* The header goes: nobody may need this content any more. */
inline clear(c) {
  d_step {
    i = 1;
    do
    :: i <= IDS -> assert(!(READABLE(where[i]) && REFERS(where[i]) && reference[i] == c)); i++
    :: else -> break
    od;
    i = 0;
    where[c] = 0;
    marked[c] = 0
  }
}

/* Parts::release_if_unused; goes on with what the content referred to. */
inline release(c, cw, cr) {
  do
  :: d_step { c == NONE -> cw = 0; cr = NONE }; break
  :: c != NONE ->
    d_step { /* HeaderTable::claim_dead */
#ifdef NO_CLAIM
      if
      :: count[c] == 0 || count[c] == DEAD -> count[c] = DEAD; cw = where[c]
#else
      if
      :: count[c] == 0 -> count[c] = DEAD; cw = where[c]
#endif
      :: else -> cw = 0
      fi;
      if
      :: BAD(cw) -> leaks = 1
      :: else
      fi;
      cr = (READABLE(cw) && REFERS(cw) -> reference[c] : NONE)
    };
    if
    :: !READABLE(cw) -> c = NONE
    :: else ->
#ifdef NO_CLEAR_FIRST
      free_slot(SLOT(cw));
      clear(c);
#else
      clear(c);
      free_slot(SLOT(cw));
#endif
      id_free[c] = 1;
      c = cr;
      if
      :: c != NONE -> lower(c)
      :: else
      fi
    fi
  od
}

/* A dependent of x goes. */
inline lower(c) {
  d_step {
    assert(dependents[c] > 0);
    dependents[c]--
  };
  subtract(c)
}

/* HeaderTable::drop_reference; x stays when it was the last. */
inline subtract(c) {
  d_step {
    assert(LIVE(c));
    count[c]--;
    c = (count[c] != 0 -> NONE : c)
  }
}

/* Parts::drop_uncounted. Whoever lowers a count to 0 looks at the phase after that. */
inline drop(c, cw, cr) {
  subtract(c);
#ifndef NO_KEEP_WHILE_RECOVERING
  if
  :: c != NONE && phase == RECOVERING -> c = NONE
  :: else
  fi;
#endif
  release(c, cw, cr)
}
