/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The way up: src/fault/filler.cpp and what it needs of guest/page_table.cpp. */
#ifdef NO_OWNERSHIP
#define IS_FREE(p) true
#else
#define IS_FREE(p) (owner[p] == OWN_idle)
#endif
#if PAGES > 1
#define ALL_IDLE (IS_FREE(0) && IS_FREE(1))
#define ANY_IDLE (IS_FREE(0) || IS_FREE(1))
#else
#define ALL_IDLE IS_FREE(0)
#define ANY_IDLE ALL_IDLE
#endif
#if GUESTS > 1
#define ANY_EVENT (asleep[0] == QUEUED || asleep[1] == QUEUED)
#else
#define ANY_EVENT (asleep[0] == QUEUED)
#endif

/* PageTable::clear_discard. REQUIRES: the caller owns p, whose word says "zero" for a hole. */
inline clear_discard(p) {
#ifdef NO_ACTIVE_CHECK
  discard[p] = 0
#else
  if
  :: discards_active == 0 ->
    discard[p] = 0;
    if
    :: discards_active != 0 -> discard[p] = 1
    :: discards_active == 0
    fi
  :: discards_active != 0
  fi
#endif
}

/* PageTable::release, and the wake that a mark asks for. */
inline release(p) {
  d_step { again = contended[p]; contended[p] = 0; set_owner(p, OWN_idle) };
  if
#ifdef NO_CONTENDED_WAKE
  :: again -> again = 0
#else
  :: d_step { again -> wake(p); again = 0 }
#endif
  :: !again
  fi
}

/* The word stops naming content c; the reference goes when the counts are known. That is decided
 * while the page is owned, and `recount` owns what it counts: a reference is counted or dropped,
 * never both. */
inline clear_word(p) {
  d_step {
    drops = NAMES(w) && known;
    if
    :: w == TAG_none
    :: else -> advance(p, w, TAG_none, 0, OWN_filling)
    fi;
    w = TAG_none
  }
}

inline drop_held() {
  if
  :: d_step { drops -> drop_ref(c); drops = 0 }
  :: !drops
  fi
}

/* Filler::apply_discard */
inline apply_discard(p) {
  d_step {
    w = tag[p];
    c = named[p];
#if DISCARDS > 0 && !defined(NO_T5_BIT)
    zero = discard[p]
#endif
  };
#if DISCARDS > 0
  if
  :: zero ->
    if
    :: w == TAG_folded || w == TAG_poisoned -> clear_word(p); drop_held()
    :: else
    fi;
    clear_discard(p);
    zero = 0
  :: !zero
  fi
#endif
}

/* Filler::copy: `zero` when a discard has come, `installed` when there was a hole. Between its two
 * changes the thread's filling word is odd. */
inline copy(me, p) {
#if DISCARDS > 0
  in_fill[me] = 1;
#ifndef NO_T5_BIT
  zero = discard[p];
#endif
#endif
  /* UFFDIO_COPY: atomic; EEXIST when there is a page. */
  d_step {
    if
    :: !resident[p] && !zero ->
      resident[p] = 1;
      marker[p] = 0;
      value[p] = content[c];
#ifndef NO_MODE_WP
      guard[p] = 1;
#endif
      installed = 1;
#ifdef NO_DONTWAKE
      wake(p)
#endif
    :: else
    fi
  };
#if DISCARDS > 0
  d_step { in_fill[me] = 0; awaited[me] = 0 }
#endif
}

/* Filler::fill_zero: not guarded, so the word may not name anything first. */
inline fill_zero(p) {
  if
  :: NAMES(w) -> clear_word(p); drop_held()
  :: else
  fi;
  d_step {
    if
    :: !resident[p] -> resident[p] = 1; guard[p] = 0; value[p] = 0; marker[p] = 0
    :: else
    fi
  }
}

/* For writing: the word must not speak of a page that is about to change. */
inline word_then_lift(p) {
#ifdef NO_WORD_BEFORE_LIFT
  guard[p] = 0;
  clear_word(p)
#else
  clear_word(p);
  guard[p] = 0
#endif
}

/* Filler::serve_owned, up to the wake. */
inline fill(me, p, kind, writes) {
  apply_discard(p);
  if
  :: w == TAG_folded ->
    if
#if POISONS > 0
    /* UFFDIO_POISON */
    :: d_step { poisons_left > 0 && !resident[p] -> poisons_left--; marker[p] = 1 };
      d_step { advance(p, w, TAG_poisoned, 0, OWN_filling); drops = known }
#endif
    :: copy(me, p);
      if
      :: zero -> clear_word(p); drop_held(); clear_discard(p); fill_zero(p)
      :: !zero && installed && !writes -> d_step { advance(p, w, TAG_clean, c, OWN_filling) }
      :: !zero && !installed && kind == MISSING -> skip /* late: the page is the truth */
      :: !zero && (kind == WP || (installed && writes)) -> word_then_lift(p)
      fi
    fi
  :: w == TAG_poisoned -> skip
  :: w != TAG_folded && w != TAG_poisoned && kind == WP -> word_then_lift(p)
  :: w != TAG_folded && w != TAG_poisoned && kind == MISSING -> fill_zero(p)
  fi
}

proctype handler(byte me) {
  byte p, w, c;
  bit kind, writes, zero, installed, again, drops, mine;

end:
  do
  :: atomic {
      up && ANY_EVENT ->
      if
      :: asleep[0] == QUEUED -> j = 0
#if GUESTS > 1
      :: asleep[1] == QUEUED -> j = 1
#endif
      fi;
      d_step { asleep[j] = TAKEN; p = ev_page[j]; kind = ev_kind[j]; writes = ev_write[j] }
    };
    /* PageTable::take_for_fill */
    d_step {
#ifdef NO_OWNERSHIP
      owner[p] = OWN_filling;
      mine = 1
#else
      if
      :: owner[p] == OWN_idle || owner[p] == OWN_folding -> set_owner(p, OWN_filling); mine = 1
      :: else -> contended[p] = 1
      fi
#endif
    };
    if
    :: mine ->
      fill(me, p, kind, writes);
      d_step { wake(p) };
      release(p);
      drop_held()
    :: !mine
    fi;
    d_step {
      p = 0; kind = 0; writes = 0; mine = 0;
      w = 0; c = 0; zero = 0; installed = 0; again = 0
    }
  od
}

#if UNFOLDS > 0
/* Filler::unfold, for detach and off: nobody waits for it, and it leaves the page guarded. */
proctype unfolder() {
  byte p, w, c;
  bit zero, installed, again, drops;

end:
  do
  :: atomic {
      up && unfolds_left > 0 && ANY_IDLE ->
      if
      :: IS_FREE(0) -> p = 0
#if PAGES > 1
      :: IS_FREE(1) -> p = 1
#endif
      fi;
      unfolds_left--;
      d_step { set_owner(p, OWN_filling) } /* take_idle_for_fill */
    };
    apply_discard(p);
    if
    :: w == TAG_folded -> copy(UNFOLDER, p)
    :: else
    fi;
    if
    :: NAMES(w) -> clear_word(p)
    :: else
    fi;
    release(p);
    drop_held();
    d_step { p = 0; w = 0; c = 0; zero = 0; installed = 0; again = 0 }
  od
}
#endif
