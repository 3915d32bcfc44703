"""What may go, what must stay, and why: images, snapshots, dumps, mirrors, logs, old rows; by number, age and room."""
