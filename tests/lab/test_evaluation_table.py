from lab.studies.evaluation_table import gate_table, headline_table, row_table

FEW = {"accuracy": 0.9, "ci95": [0.8256, 0.9448], "n": 1000}
BOTH = {**FEW, "attacks": ["grey-box:fgsm", "grey-box:pgd"]}
REPORT = {
    "headlines": [
        {"threat": "grey-box", "defended": False, "norm": "Linf", "size": 0.1, **BOTH, "n": 5000, "accuracy": 0.2},
        {"threat": "grey-box", "defended": False, "norm": "Linf", "size": 0.1, **BOTH, "accuracy": 0.0},
        {"threat": "grey-box", "defended": True, "norm": "Linf", "size": 0.1, **BOTH},
        {"threat": "grey-box", "defended": True, "norm": "L2", "size": 1.5, **FEW, "attacks": ["grey-box:pgd-l2"]},
        {"threat": "corruptions", "defended": True, "norm": None, "size": None, **FEW, "attacks": ["corruptions:fog"]},
    ],
    "rows": [
        {"threat": "clean", "attack": "none", "name": "clean:none", "defended": False, **FEW, "accuracy": 0.95},
        {"threat": "clean", "attack": "none", "name": "clean:none", "defended": True, **FEW},
        {"threat": "bpda", "attack": "PGD-20", "name": "bpda:pgd", "defended": True, **FEW},
    ],
    "gates": [
        {"name": "a", "passed": True, "explanation": "x"},
        {"name": "b", "passed": False, "explanation": "y"},
        {"name": "c", "passed": None, "explanation": "z"},
    ],
}


def test_a_headline_stands_beside_the_undefended_one_of_its_norm_size_and_images() -> None:
    assert headline_table(REPORT)[2:] == [
        "| grey-box | Linf 0.1 | fgsm, pgd | 1,000 | 0.00% (82.56 to 94.48) | 90.00% (82.56 to 94.48) |",
        "| grey-box | L2 1.5 | pgd-l2 | 1,000 |  | 90.00% (82.56 to 94.48) |",
        "| corruptions |  | fog | 1,000 |  | 90.00% (82.56 to 94.48) |",
    ]


def test_a_row_stands_beside_the_undefended_one_of_its_attack() -> None:
    assert row_table(REPORT)[2:] == [
        "| clean | none | 1,000 | 95.00% (82.56 to 94.48) | 90.00% (82.56 to 94.48) |",
        "| bpda | PGD-20 | 1,000 |  | 90.00% (82.56 to 94.48) |",
    ]


def test_a_gate_that_was_not_checked_has_not_passed() -> None:
    assert gate_table(REPORT)[2:] == ["| a | passed | x |", "| b | **failed** | y |", "| c | not checked | z |"]
