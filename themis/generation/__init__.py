"""Generation: from the items of a bundle's shard to durable records.

`worker.work_shard` is what an array task runs; `driver.drive` is the loop that keeps an engine
busy; `stopping.Stopping` knows when to stop.
"""
