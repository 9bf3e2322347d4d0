"""The demo: a newcomer's tour of the main job, played against real counterparts.

It is a stranger to the house: it starts `scaikey` and then uses its commands and its HTTP doors only, so that what it
shows is what anybody gets. From the packages it takes one thing, the starting of processes. `python -m demo`.
"""
