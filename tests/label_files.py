"""Headers of published labels files as published, and invented rows."""

NIH_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
NIH_2020 = NIH_2017.rstrip(",\n") + "\n"
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
MIMIC = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
)
PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,ReportID,Report,MethodLabel,Labels,Localizations\n"
)


VINDR_BOXES = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n" + "".join(
    f"{image},{name},0,{reader},,,,\n"
    for image, name, reader in [
        ("a", "No finding", "R1"),
        ("a", "No finding", "R2"),
        ("a", "Cardiomegaly", "R3"),
        ("b", "Cardiomegaly", "R1"),
        ("b", "Cardiomegaly", "R1"),
        ("b", "Cardiomegaly", "R2"),
        ("b", "Pleural effusion", "R2"),
        ("b", "No finding", "R3"),
    ]
)
VINDR_COLUMNS = "image_id,rad_id,Cardiomegaly,Pleural effusion,No finding\n" + (
    "a,R1,0,0,1\na,R2,0,0,1\na,R3,1,0,0\nb,R1,1,0,0\nb,R2,1.0,1.0,0.0\nb,R3,0,0,1\n"
)


def padchest(image, labels, report="", projection="PA"):
    about = f"0,{image},0,20130131,s1,p1,1950.0,F,POSTEROANTERIOR,{projection},Manual,No,DX"
    return f'{about},r1,"{report}",Physician,{labels},x\n'
