/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The protocol between the agent (inside QEMU) and the daemon, and the memory they share. A C leaf:
 * nothing but libc's fixed-width integers, included by C11 and C++23 alike. docs/agent-protocol.md
 * explains it with a worked example.
 *
 * Transport: SOCK_SEQPACKET on a UNIX socket, one message a packet, little-endian, all padding
 * named. Every message begins with struct rf_header. A receiver skips a message whose type it does
 * not know when RF_FLAG_SKIPPABLE is set and ends the connection otherwise; a message may be longer
 * than the receiver's struct (a later version appended fields), never shorter.
 *
 * The daemon trusts nothing that arrives here: see src/guest/.
 */
#ifndef RAMFOLD_AGENT_WIRE_H
#define RAMFOLD_AGENT_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define RF_MAGIC 0x31574652u /* "RFW1" */
#define RF_VERSION_MIN 1u
#define RF_VERSION_MAX 1u
#define RF_MESSAGE_MAX 4096u /* bytes of one message */
#define RF_BLOCKS_MAX 16u    /* RAM blocks of one VM; each needs a descriptor, SCM_MAX_FD is 253 */
#define RF_FDS_MAX (1u + RF_BLOCKS_MAX)
#define RF_SHARED_PAGE 4096u
#define RF_TEXT_MAX 240u
#define RF_DEFAULT_SOCKET "/run/ramfold/agent.sock"

#define RF_FLAG_SKIPPABLE 1u

enum rf_type {
  RF_HELLO = 1,    /* agent:  first message of every connection */
  RF_WELCOME = 2,  /* daemon: what the agent should do now; may come again later */
  RF_OFFER = 3,    /* agent:  blocks; descriptors: uffd, then one RAM file a block */
  RF_ATTACHED = 4, /* daemon: descriptor: the shared memory */
  RF_READY = 5,    /* agent:  it now delays every call that is a hazard; folding may begin */
  RF_HOLD = 6,     /* older agents: look at the facts again; skippable hint */
  RF_UNFOLD = 7,   /* agent:  a hazard waits until nothing is folded; token names the request */
  RF_UNFOLDED = 8, /* daemon: answer to RF_UNFOLD */
  RF_REFUSED = 9,  /* daemon: one line for stderr; QEMU runs on as if the agent were absent */
  /* 10 and 11 were in use once */
  RF_CHANGED = 12,   /* older agents: a descriptor was closed; skippable hint */
  RF_DETACHED = 13,  /* daemon: nothing is folded any more; keep the uffd, delay no call */
  RF_FENCE = 14,     /* daemon: no command of an older session may run from now on */
  RF_FENCED = 15,    /* agent:  none runs, nor will run; commands of this session may come */
  RF_COMMAND = 16,   /* daemon: do something to RAM; token names the command */
  RF_ANSWER = 17,    /* agent:  the result of one command */
  RF_UNFOLDING = 18, /* daemon: how far RF_UNFOLD has come; skippable, at most once a second */
  RF_POOL = 19 /* daemon: descriptor: the pool of the VM's group, read-only. For RF_ACT_MAP, until
                  the next one, RF_DETACHED, or the connection's end */
};

struct rf_header {
  uint32_t magic;
  uint16_t type;
  uint16_t flags;
  uint32_t length;     /* of the whole message, header included */
  uint32_t generation; /* of the daemon's session; an agent drops commands of an older one (D10) */
};

#define RF_CAP_DISCARD 1u /* sets bits before fallocate/madvise discards */
/* Older agents: delays calls that bring device writes in flight. Daemons that do not ask the kernel
   who holds a page fold nothing without it. */
#define RF_CAP_BUFFERED 2u
#define RF_CAP_CONSUMERS 4u /* delays calls that would start another consumer of the RAM file */
#define RF_CAP_FILLS 8u     /* waits for fills between a discard's bits and its call */
#define RF_CAP_COMMANDS 16u /* knows RF_FENCE and RF_COMMAND */
/* MADV_NOHUGEPAGE was set on RAM when it was empty, and has held since: no large folio in it */
#define RF_CAP_SMALL_FOLIOS 32u
#define RF_CAP_MAPPING 64u /* knows RF_POOL, RF_ACT_MAP and RF_ACT_RESTORE, and may map the pool */

struct rf_hello {
  struct rf_header h;
  uint16_t version_min, version_max;
  uint32_t blocks;       /* RAM blocks found so far */
  uint64_t capabilities; /* RF_CAP_* */
  uint8_t instance[16];  /* of the last RF_ATTACHED in this process; zeros when there was none */
  uint32_t hazards;      /* RF_HAZARD_* seen so far: facts from before the attach */
  /* 1: the last attachment may have left folded pages. A daemon that does not know that attachment
     must not attach this process anew, because the holes would become zeros. */
  uint32_t folded;
};

enum rf_action {
  RF_ACTION_OFFER = 1,  /* descriptor: /dev/userfaultfd. Make a uffd from it (or use the one kept),
                           close it, send RF_OFFER */
  RF_ACTION_RESUME = 2, /* descriptor: the shared memory; the daemon still has uffd and RAM files.
                           The agent answers RF_READY */
  RF_ACTION_WAIT = 3 /* nothing to do now; stay connected (the VM is not wanted, or was detached) */
};

struct rf_welcome {
  struct rf_header h;
  uint16_t version; /* the one spoken from here on */
  uint16_t action;  /* enum rf_action */
  uint32_t reserved;
  uint64_t capabilities;
  uint8_t instance[16];
};

struct rf_block {
  uint64_t address; /* in QEMU */
  uint64_t size;    /* bytes, whole pages */
  uint64_t offset;  /* into the RAM file */
  uint64_t device;  /* of the RAM file, as fstat says; compared with /proc/PID/maps */
  uint64_t inode;
};

struct rf_offer {
  struct rf_header h;
  uint32_t blocks;
  uint32_t reserved;
  struct rf_block block[RF_BLOCKS_MAX];
};

struct rf_attached {
  struct rf_header h;
  uint8_t instance[16];
  uint64_t pages; /* of all blocks together, in the order of the offer */
};

struct rf_ready {
  struct rf_header h;
  uint8_t instance[16];
};

/* Why a call must not meet a folded page. Also bits of rf_hello.hazards and rf_shared.sticky. */
enum rf_hazard {
  /* Device writes in flight. Only older agents report these. */
  RF_HAZARD_DIRECT_IO = 1,     /* O_DIRECT descriptor */
  RF_HAZARD_FILESYSTEM = 2,    /* descriptor of a file system not on the allow-list */
  RF_HAZARD_SG_IO = 4,         /* SG_IO or a generic SCSI device */
  RF_HAZARD_FIXED_BUFFERS = 8, /* io_uring registered buffers */
  /* Other consumers of RAM, and changes of its mappings. */
  RF_HAZARD_RAM_FD_PASSED = 16, /* the RAM file's descriptor sent elsewhere (vhost-user) */
  RF_HAZARD_DEVICE = 32,        /* RAM given to a device: udmabuf, iommufd by file, vfio, vdpa */
  RF_HAZARD_EXEC = 64,          /* execve in this process */
  RF_HAZARD_REMAP = 128,        /* RAM unmapped, remapped or mapped over */
  RF_HAZARD_LOCK = 256,         /* mlock, mlockall */
  RF_HAZARD_OTHER_UFFD = 512    /* QEMU's own userfaultfd: postcopy, background snapshot */
};

struct rf_hold { /* RF_HOLD, RF_CHANGED: of older agents */
  struct rf_header h;
  uint32_t hazard;
  uint32_t sequence;
};

struct rf_unfold {
  struct rf_header h;
  uint32_t hazard;
  uint32_t token;
};

struct rf_unfolded {
  struct rf_header h;
  uint32_t token;
  uint32_t ok; /* 1: nothing is folded, nor will be. 0: not possible, the hazard must not begin */
};

/* A message that shows more pages than the last one did starts RF_UNFOLD_MS_MAX anew, so the
   request goes on waiting. */
struct rf_unfolding {
  struct rf_header h;
  uint32_t token;
  uint32_t reserved;
  uint64_t done; /* pages that have come back since the request was heard */
  uint64_t all;  /* `done` and the pages still to come */
};

struct rf_refused {
  struct rf_header h;
  char text[RF_TEXT_MAX]; /* zero-terminated */
};

struct rf_bare { /* RF_DETACHED, RF_FENCE, RF_FENCED, RF_POOL */
  struct rf_header h;
};

/*
 * Commands. The daemon sends RF_FENCE with its own generation after RF_READY, and commands only
 * after RF_FENCED. A command runs only while
 *   - its generation is the connection's, and the agent has answered the fence of that one;
 *   - the daemon that sent it has not hung up, and rf_shared.session still is that generation;
 *   - the agent delays hazards (RF_READY), and the daemon has not promised to keep RAM unfolded.
 * Else it is dropped (when its sender is gone) or refused. So commands that a dead daemon left in
 * the socket do nothing once its successor has its RF_FENCED (D10), and an answer always belongs to
 * a command of the session that receives it. An answer is only the agent's word; the kernel tells
 * how RAM is mapped.
 */
#define RF_RUNS_MAX 64u                 /* of one command */
#define RF_COMMAND_BYTES_MAX (4u << 20) /* of all its runs: a call holds QEMU's mmap_lock */
#define RF_COMMANDS_UNDER_WAY_MAX 16u   /* of one VM: sent and not answered */

enum rf_act {
  /* madvise(MADV_DONTNEED): page table entries go, pages and guards stay. The next touch finds the
     page in the RAM file. Not of pages that map the pool: their copies would go. */
  RF_ACT_FORGET = 1,
  /* The pool is mapped over the runs, private, and then the pages beneath are punched out of the
     RAM file. Not of pages that map it already, nor of pages with a discard bit. The daemon has
     guarded the pages and compared them with the pool. struct rf_map_command. */
  RF_ACT_MAP = 2,
  /* The bytes of those pages of the runs that map the pool go into the RAM file, which is then
     mapped in their place. The daemon has guarded the pages; it must register them again. */
  RF_ACT_RESTORE = 3
};

struct rf_run {
  uint64_t offset; /* bytes from the first block's begin, all blocks laid end to end as offered */
  uint64_t length; /* bytes; both in whole pages; a run lies in one block */
};

struct rf_command {
  struct rf_header h;
  uint32_t token; /* echoed; unique among the commands under way */
  uint32_t act;   /* enum rf_act */
  uint32_t runs;
  uint32_t reserved;
  struct rf_run run[RF_RUNS_MAX];
};

struct rf_map_command { /* RF_ACT_MAP */
  struct rf_command c;
  uint64_t pool[RF_RUNS_MAX]; /* for each run: where it begins in the pool, in whole pages */
};

enum rf_answer_status {
  RF_ANSWER_DONE = 0,
  RF_ANSWER_REFUSED = 1, /* nothing was done */
  RF_ANSWER_FAILED = 2   /* a system call failed: `done` runs were carried out, in order */
};

struct rf_answer {
  struct rf_header h;
  uint32_t token;
  uint32_t status; /* enum rf_answer_status */
  uint32_t error;  /* errno; 0 when done */
  uint32_t done;   /* runs */
};

/*
 * The shared memory of one VM: a memfd made and sized by the daemon (sealed against shrinking and
 * growing). One page of words, then the discard bitmap: bit i of the 64-bit words after it is page
 * i in the order of the offer's blocks.
 *
 * A hazard begins when nothing is folded: the agent sends RF_UNFOLD and waits for RF_UNFOLDED.
 * Before RF_READY it has waited for the calls that began before it had this memory.
 *
 * Older agents (RF_CAP_BUFFERED) hold calls that bring device writes in flight, without a message:
 * they raise `pending` and `sequence`, wait until `runs_active` is 0, and lower `pending`.
 *
 * The discard (T5; sequentially consistent):
 *   agent:           discards_active += 1; set the bits; wait for the fills under way; the call;
 *                    clear the bits if it failed; discards_active -= 1.
 *   daemon, a fill:  its filling word becomes odd; look at the bit; COPY, unless it is set; the
 *                    word becomes even. Nothing in between waits: not for a lock, the store, the
 *                    agent.
 *   agent, the wait: until no filling word still has the odd value that it had after the bits were
 *                    set, or until the daemon that wrote it has died: `session` names that daemon,
 *                    and its connection has ended. After RF_HOLD_MS_MAX the discard fails with
 *                    EBUSY.
 *   daemon:          clears a bit only as the page's owner, with the word saying "hole is zero"; if
 *                    discards_active is not 0 after the clearing, it sets the bit again.
 */
#define RF_HOLD_MS_MAX 10000u
#define RF_UNFOLD_MS_MAX 120000u
#define RF_FILLINGS \
  17u /* threads that may fill one VM at once: 16 fault threads, one that unfolds */

#ifdef __cplusplus
#include <atomic>
#define RF_ATOMIC32 std::atomic<uint32_t>
#define RF_ATOMIC64 std::atomic<uint64_t>
#define RF_ASSERT static_assert
#else
#include <stdatomic.h>
#define RF_ATOMIC32 _Atomic uint32_t
#define RF_ATOMIC64 _Atomic uint64_t
#define RF_ASSERT _Static_assert
#endif

struct rf_filling {
  /* odd: its thread is between its look at a discard bit and the end of its COPY */
  RF_ATOMIC32 word;
  uint8_t reserved[60]; /* a cache line for each thread */
};

struct rf_shared {
  /* written by the daemon before it hands the memory out */
  uint32_t magic;
  uint32_t version;
  uint64_t pages;
  uint8_t instance[16];
  uint8_t reserved0[32];
  /* written by the agent */
  RF_ATOMIC32 sequence;        /* older agents only; else 0 */
  RF_ATOMIC32 pending;         /* older agents only; else 0 */
  RF_ATOMIC32 sticky;          /* RF_HAZARD_* that began and cannot end in this process */
  RF_ATOMIC32 discards_active; /* discards between their first bit and their end */
  uint8_t reserved1[48];
  /* written by the daemon */
  RF_ATOMIC32 runs_active; /* runs between their guard and their end */
  /* Generation of the daemon, while its death would end a connection with the agent. The daemon
     sets it before WELCOME or ATTACHED brings this memory. It writes 0 before it closes the
     connection, and another daemon writes 0 when it begins. */
  RF_ATOMIC32 session;
  RF_ATOMIC32 folded; /* 1 before the first page leaves, for good */
  uint8_t reserved2[52];
  struct rf_filling filling[RF_FILLINGS];
};

RF_ASSERT(sizeof(struct rf_header) == 16, "wire");
RF_ASSERT(sizeof(struct rf_hello) == 56, "wire");
RF_ASSERT(sizeof(struct rf_welcome) == 48, "wire");
RF_ASSERT(sizeof(struct rf_block) == 40, "wire");
RF_ASSERT(sizeof(struct rf_offer) == 24 + 40 * RF_BLOCKS_MAX, "wire");
RF_ASSERT(sizeof(struct rf_attached) == 40, "wire");
RF_ASSERT(sizeof(struct rf_ready) == 32, "wire");
RF_ASSERT(sizeof(struct rf_hold) == 24, "wire");
RF_ASSERT(sizeof(struct rf_unfold) == 24, "wire");
RF_ASSERT(sizeof(struct rf_unfolded) == 24, "wire");
RF_ASSERT(sizeof(struct rf_unfolding) == 40, "wire");
RF_ASSERT(sizeof(struct rf_refused) == 16 + RF_TEXT_MAX, "wire");
RF_ASSERT(sizeof(struct rf_bare) == 16, "wire");
RF_ASSERT(sizeof(struct rf_run) == 16, "wire");
RF_ASSERT(sizeof(struct rf_command) == 32 + 16 * RF_RUNS_MAX, "wire");
RF_ASSERT(sizeof(struct rf_command) <= RF_MESSAGE_MAX, "wire");
RF_ASSERT(sizeof(struct rf_map_command) == sizeof(struct rf_command) + 8 * RF_RUNS_MAX, "wire");
RF_ASSERT(sizeof(struct rf_map_command) <= RF_MESSAGE_MAX, "wire");
RF_ASSERT(sizeof(struct rf_answer) == 32, "wire");
RF_ASSERT(sizeof(RF_ATOMIC32) == 4, "wire");
RF_ASSERT(sizeof(struct rf_filling) == 64, "wire");
RF_ASSERT(sizeof(struct rf_shared) == 192 + 64 * RF_FILLINGS, "wire");
RF_ASSERT(sizeof(struct rf_shared) <= RF_SHARED_PAGE, "wire");
RF_ASSERT(offsetof(struct rf_shared, sequence) == 64, "wire");
RF_ASSERT(offsetof(struct rf_shared, runs_active) == 128, "wire");
RF_ASSERT(offsetof(struct rf_shared, filling) == 192, "wire");

#endif /* RAMFOLD_AGENT_WIRE_H */
