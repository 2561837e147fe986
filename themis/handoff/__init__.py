"""Hand work over and take it back: plan into the store, export bundles, import their results."""
