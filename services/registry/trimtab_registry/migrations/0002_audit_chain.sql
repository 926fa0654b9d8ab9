-- Each entry carries the hash of the one before; libs/core/trimtab_core/auditchain.py says what is hashed, and how.
ALTER TABLE audit ADD COLUMN previous text, ADD COLUMN hash text, ALTER COLUMN sequence DROP IDENTITY;

-- The last entry. Its row is locked from an append to the end of its transaction, so the chain has one order.
CREATE TABLE audit_head (
    sequence bigint NOT NULL,
    hash text NOT NULL
);
CREATE UNIQUE INDEX one_audit_head ON audit_head ((true));

-- What was recorded before is chained in its order, once: the log was append-only, and is again.
CREATE FUNCTION canonical(value jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'string' THEN octet_length(convert_to(value #>> '{}', 'UTF8')) || ':' || (value #>> '{}')
        WHEN 'null' THEN 'n'
        WHEN 'boolean' THEN left(value::text, 1)
        WHEN 'number' THEN 'x' || encode(float8send((value #>> '{}')::float8), 'hex')
        WHEN 'object' THEN 'd' || coalesce((
            SELECT string_agg(canonical(to_jsonb(key)) || canonical(held), '' ORDER BY key COLLATE "C")
            FROM jsonb_each(value) AS pair (key, held)
        ), '') || 'e'
        WHEN 'array' THEN 'l' || coalesce((
            SELECT string_agg(canonical(item), '' ORDER BY number)
            FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, number)
        ), '') || 'e'
    END;
END $$;
ALTER TABLE audit DISABLE TRIGGER append_only;
DO $$
DECLARE
    entry audit;
    before text := '';
    own text;
BEGIN
    FOR entry IN SELECT * FROM audit ORDER BY audit.sequence LOOP
        own := encode(sha256(convert_to(canonical(jsonb_build_array(
            before, entry.sequence, entry.resource, entry.action, entry.actor, entry.reason,
            round(extract(epoch FROM entry.at) * 1000), entry.details
        )), 'UTF8')), 'hex');
        UPDATE audit SET previous = before, hash = own WHERE audit.sequence = entry.sequence;
        before := own;
    END LOOP;
    INSERT INTO audit_head SELECT coalesce(max(sequence), 0), before FROM audit;
END $$;
ALTER TABLE audit ENABLE TRIGGER append_only;
ALTER TABLE audit ALTER COLUMN previous SET NOT NULL, ALTER COLUMN hash SET NOT NULL;
DROP FUNCTION canonical;
