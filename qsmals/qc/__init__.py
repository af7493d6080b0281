"""Quality of a scan and of its susceptibility map: measures, their limits, and the verdict."""
