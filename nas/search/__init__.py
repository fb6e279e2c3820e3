"""Searchers that are asked and told (`searchers.py` names them) and the loop that drives them (`loop.py`); imported one by one."""
