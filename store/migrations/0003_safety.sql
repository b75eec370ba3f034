-- Safety probes of every tier: more states of a score, more tiers.

COMMENT ON COLUMN internal.scores.status IS 'ok, inconclusive, unalignable, unsupported or error';
COMMENT ON COLUMN internal.scores.prompt_set IS 'name@digest of the prompt set; none for a probe that asks nothing';
COMMENT ON COLUMN internal.scores.judge IS 'What graded the answers; none for a probe that asks nothing';
COMMENT ON COLUMN internal.probes.tier IS 'Cost: metadata, sketch, weights, activations, generation, deployment';
COMMENT ON COLUMN v1.probes.tier IS 'Cost: metadata, sketch, weights, activations, generation, deployment';
COMMENT ON COLUMN v1.scores.status IS 'ok, inconclusive, unalignable (nothing to compare with), unsupported or error; a probe that did not run is never a pass';
COMMENT ON COLUMN v1.scores.judge IS 'What graded the answers; none for a probe that asks nothing';
