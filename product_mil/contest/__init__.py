"""From runs and prediction files to answers of the same labelled products."""
