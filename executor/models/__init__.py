"""Model files and the networks in them: telling them apart, loading, evaluating."""
