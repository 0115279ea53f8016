# SPDX-License-Identifier: GPL-2.0-or-later
"""The sets of guests that benches of real guests' RAM use, and the load that they get."""

# name: (what it is, kinds of guests)
SETS = {
    "same": ("four guests of one image", ["web", "web", "web", "web"]),
    "different": ("four guests of three Debian releases and two architectures: web server, "
                  "key-value store, database, interpreter", ["web", "kv", "db", "script"]),
}
# Load before the picture is taken: every item of the service is asked for so many times. Kinds
# that have no checked service have a command for it. What a database has not written out yet is the
# load's, too: its checkpoint would fall into the time without load.
ROUNDS = 3
LOADS = {"db": "guest-load && runuser -u postgres -- psql -qc checkpoint",
         "script": "guest-load"}
LOAD_PATIENCE_S = 900


def work(machine):
    """Gives the guest's service its load."""
    load = LOADS.get(machine.guest.kind)
    for _ in range(ROUNDS):
        if load:
            machine.sh(load, LOAD_PATIENCE_S)
        elif machine.guest.disk:
            machine.check_service(LOAD_PATIENCE_S)
