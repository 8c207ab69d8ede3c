"""The columns of the two CSV files, which have no header line, and what becomes of each."""

COLUMNS = (
    "age",
    "class_of_worker",
    "industry",
    "occupation",
    "education",
    "wage_per_hour",
    "enrolled_in_education",
    "marital_status",
    "major_industry",
    "major_occupation",
    "race",
    "hispanic_origin",
    "sex",
    "labor_union",
    "reason_for_unemployment",
    "employment",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer_status",
    "previous_region",
    "previous_state",
    "household_and_family",
    "household_summary",
    "instance_weight",
    "migration_msa",
    "migration_region",
    "migration_within_region",
    "same_house_last_year",
    "previous_sunbelt",
    "employer_size",
    "parents_present",
    "birth_country_father",
    "birth_country_mother",
    "birth_country",
    "citizenship",
    "own_business",
    "veterans_questionnaire",
    "veterans_benefits",
    "weeks_worked",
    "year",
    "income",
)
DENSE = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "employer_size",  # an ordered code, 0 to 6
    "weeks_worked",
)
WEIGHT = "instance_weight"  # how many people a row stands for: no feature, by the data's own description
LABELS = {"income": "50000+.", "marital_status": "Never married"}  # {column: the value that is a positive}
TASKS = {"income": "income", "marital_status": "marital"}  # {column: name of the label}
CATEGORICAL = tuple(name for name in COLUMNS if name not in (*DENSE, WEIGHT, *LABELS))
VALUES = {"income": ("- 50000.", "50000+.")}  # a label column with any other value is refused
