/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sizes of the model, its state, and what every part of it does with a page. */
#ifndef PAGES
#define PAGES 1
#endif
#ifndef GUESTS
#define GUESTS 2 /* guest threads; 1 or 2 */
#endif
#ifndef OPS
#define OPS 2 /* accesses of each guest thread */
#endif
#ifndef HANDLERS
#define HANDLERS 1 /* fault threads of the daemon */
#endif
#ifndef FOLDERS
#define FOLDERS 1
#endif
#ifndef FOLDS
#define FOLDS 2 /* attempts of each folder */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef DISCARDS
#define DISCARDS 0
#endif
#ifndef UNFOLDS
#define UNFOLDS 0 /* fills that nobody waits for: detach, off, the clearing of a left-over bit */
#endif
#ifndef POISONS
#define POISONS 0 /* contents that cannot be read back */
#endif
#ifndef KEPT
#define KEPT 1
#endif
#ifndef CONTENTS
#define CONTENTS 3
#endif

/* The daemon's processes, as indices of `parked` and `in_fill`. */
#define MAIN 0
#define FOLDER0 1
#define HANDLER0 (FOLDER0 + FOLDERS)
#define UNFOLDER (HANDLER0 + HANDLERS)
#if UNFOLDS > 0
#define DAEMONS (UNFOLDER + 1)
#else
#define DAEMONS UNFOLDER
#endif

#define JUNK 3 /* a value that no guest ever wrote */
#define AWAKE 0
#define QUEUED 1 /* asleep, its event not yet read */
#define TAKEN 2  /* asleep, its event read by a daemon, perhaps one that died */
#define MISSING 0
#define WP 1
#define FREE 0
#define LIVE 1

/* The kernel: the RAM file, its guards, a poison marker, the sleeping threads and their events. */
bit resident[PAGES];
bit guard[PAGES];
byte value[PAGES];
bit marker[PAGES];
byte asleep[GUESTS];
byte ev_page[GUESTS];
bit ev_kind[GUESTS];
bit ev_write[GUESTS];

/* What outlives the daemon: words, discard bits, contents. `refs` is derived and rebuilt. */
byte tag[PAGES];
byte named[PAGES];
bit discard[PAGES];
byte discards_active;
byte content_state[CONTENTS];
byte content[CONTENTS];

/* What dies with the daemon. */
byte owner[PAGES];
bit contended[PAGES];
byte refs[CONTENTS];
bit up;    /* main let the threads run */
bit known; /* the reference counts have been rebuilt */
bit in_fill[DAEMONS]; /* shared with the agent: the filling word is odd */
bit awaited[DAEMONS]; /* ... and has been since the agent looked at it */

bit kept = KEPT; /* the keeper has acknowledged the table and the store */
byte crashes_left;
bit boot = 1;
byte discards_left = DISCARDS;
byte folds_left[FOLDERS] = FOLDS;
byte unfolds_left = UNFOLDS;
byte poisons_left = POISONS;

/* What a read may return: a set of values; `racing`: a discard has begun and not ended; `raced`: a
 * write came meanwhile. */
byte allowed[PAGES];
bit racing[PAGES];
bit raced[PAGES];

hidden byte row;
hidden byte i;
hidden byte j;

#ifdef NO_BUG_CHECKS
#define BUG_UNLESS(x) skip
#else
#define BUG_UNLESS(x) assert(x)
#endif

#define NAMES(t) ((t) == TAG_clean || (t) == TAG_folded)

inline set_owner(p, to) {
  OWNER_ROW(owner[p], to, row);
  BUG_UNLESS(row != 255);
  c_code { if (row != 255) owner_rows[row].used++; };
  owner[p] = to
}

/* PageTable::advance */
inline advance(p, seen, to, c, by) {
  BUG_UNLESS(owner[p] == by);
  BUG_UNLESS(tag[p] == seen);
  if
  :: seen == to -> skip
  :: else ->
    TAG_ROW(seen, to, by, row);
    BUG_UNLESS(row != 255);
    c_code { if (row != 255) tag_rows[row].used++; }
  fi;
  tag[p] = to;
  if
  :: NAMES(to) -> named[p] = c
  :: else -> named[p] = 0
  fi
}

inline wake(p) {
  i = 0;
  do
  :: i < GUESTS ->
    if
    :: asleep[i] != AWAKE && ev_page[i] == p ->
      asleep[i] = AWAKE; ev_page[i] = 0; ev_kind[i] = 0; ev_write[i] = 0
    :: else
    fi;
    i++
  :: else -> break
  od;
  skip /* a d_step may not end in a jump */
}

/* The last reference frees a content; a freed one is overwritten at once. */
inline drop_ref(c) {
  BUG_UNLESS(refs[c] > 0);
  refs[c]--;
  if
  :: refs[c] == 0 ->
    i = 0;
    do
    :: i < PAGES -> BUG_UNLESS(!(NAMES(tag[i]) && named[i] == c)); i++
    :: else -> break
    od;
    content_state[c] = FREE;
    content[c] = JUNK
  :: else
  fi
}
