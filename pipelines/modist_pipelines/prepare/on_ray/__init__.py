"""Preparing on the machines of a Ray cluster, or on this one under Ray: `modist prepare --engine ray`.

Ray is imported by these modules alone, and only when the option asks for it.
"""
