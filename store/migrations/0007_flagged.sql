-- Losses of safety training, with their names: a few thousand rows, so that the question asked most
-- does not search millions of models for the names of its answer.

CREATE TABLE internal.flagged AS
SELECT f.model, d.name, a.name AS ancestor, f.severity, f.value, f.ci_low, f.ci_high, f.q_value,
    f.status, f.evidence_id, f.finding_id, f.first_scan, f.last_scan
FROM internal.findings f
JOIN internal.models d ON d.id = f.model
LEFT JOIN internal.models a ON a.id = f.ancestor
WHERE f.kind = 'stripped_safety' AND f.status IN ('new', 'open')
ORDER BY f.model, f.finding_id;
COMMENT ON TABLE internal.flagged IS 'Open findings of lost safety training with their names, written anew with the findings and at the end of each scan';
COMMENT ON COLUMN internal.flagged.model IS 'Model id';
COMMENT ON COLUMN internal.flagged.name IS 'Name of the model';
COMMENT ON COLUMN internal.flagged.ancestor IS 'Name of the ancestor it is measured against';
COMMENT ON COLUMN internal.flagged.severity IS 'How bad';
COMMENT ON COLUMN internal.flagged.value IS 'Size of the loss';
COMMENT ON COLUMN internal.flagged.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.flagged.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.flagged.q_value IS 'p-value after correction for all comparisons';
COMMENT ON COLUMN internal.flagged.status IS 'new or open';
COMMENT ON COLUMN internal.flagged.evidence_id IS 'Group of evidence rows';
COMMENT ON COLUMN internal.flagged.finding_id IS 'Stable over scans';
COMMENT ON COLUMN internal.flagged.first_scan IS 'Scan that first had it';
COMMENT ON COLUMN internal.flagged.last_scan IS 'Scan that last had it';

CREATE OR REPLACE MACRO v1.stripped(model) AS TABLE
SELECT f.name AS model, f.ancestor, k.distance, f.severity, f.value, f.ci_low, f.ci_high,
    f.q_value, f.status, f.evidence_id, f.finding_id, f.first_scan, f.last_scan
FROM internal.flagged f
JOIN internal.closure k ON k.descendant = f.model
WHERE k.ancestor = internal.model_id(model)
ORDER BY f.value DESC NULLS LAST, f.name, f.ancestor;
COMMENT ON MACRO TABLE v1.stripped IS 'Descendants of a model that lost what an ancestor had';
