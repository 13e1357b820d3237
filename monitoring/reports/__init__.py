"""Pages that explain a finding."""
