-- Why a policy was saved, in the words of who did it.
ALTER TABLE policies ADD COLUMN note TEXT NOT NULL DEFAULT '';
